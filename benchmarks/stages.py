"""Each stage beside its literal twin, for `python -m benchmarks`.

- pooling: what noisy-or costs beside global average pooling, forward and backward. The truth is the formula in 64 bits,
  1 - prod(1 - sigmoid), and its gradient.
- tiles: all tiles as one batch, beside a forward pass for each place.
- step: five forward passes, backward, SGD. An untrained ResNet whose batch norm has seen no picture would send
  nothing through its residual branches, and numbers without bounds; so it first looks at a few. What is compared are
  the losses and the size of the gradients at both ends of the network. Two more works, a product of two matrices in
  either precision, tell what the device itself gains by bfloat16: a processor without matrix units may lose.
- cams: four scales and the mirror image, pictures of VOC's size. *Its products* are as many multiplications and
  additions in products of matrices, the fastest way a processor has for them.
- sweep: sixty thresholds in one sweep, beside one evaluation at one threshold, and beside sixty of them. Smooth maps
  as a network gives them, masks with a void outline.
- walk: from an edge map to walked class maps, 256 steps, beside the squaring of the full matrix, whose operations
  grow with the third power of the cells. *Moving its bytes* tells how near the walk is to what memory allows:
  whatever way one takes, each multiplication has to read the matrix's values once; it copies as many bytes as often,
  in pieces of the matrix's size.
- affinity: labels and loss of all pairs, forward and backward, at stride 4 of a 512-pixel crop.
- crf: probabilities of 21 classes, of which up to three and the background are in the picture: one process over all,
  beside a pool over those present.
- pipeline: the recipe `quick` on generated pictures, from labels to the segmenter's masks, every product evaluated.
  Both ways have the sparse walk. What is compared are the pseudo-labels.
"""
import copy, math, warnings
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from consistency_cam.datasets.samples import read_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.tools.metrics import ThresholdSweep
from consistency_cam.files.memory import reused_memory
from consistency_cam.fast.swap import plain
from consistency_cam.pooling import gap, noisy_or
from consistency_cam.camnet import CAMNet
from consistency_cam.cams import infer_batch, scaled_evidence
from consistency_cam.tiling import merge, tile
from consistency_cam.views import HFlip, RandomCrop, RandomResize, Tiles
from consistency_cam.consistency import ConsistencyTask
from consistency_cam.crf import crf_many
from consistency_cam.affinity import affinity_loss, offsets, pair_labels, path_affinity
from consistency_cam.randomwalk import power_weights, random_walk, step_change
from consistency_cam.experiments.recipes import recipe
from consistency_cam.experiments.pipeline import run
from benchmarks.literal import FiveForwards, cams_one_at_a_time, crf_all_classes, evaluate_at, literal_run
from benchmarks.literal import losses_pair_by_pair, tiles_one_by_one, walk_by_squaring
from benchmarks.measure import Goal, Problem, benchmark, share

def _logits_and_gradient(pool, cams):
    "Class logits and gradient of a pooling"
    x = cams.detach().requires_grad_()
    logits = pool(x)
    logits.sum().backward()
    return logits.detach(), x.grad

def _product(cams):
    "Logits of 1 - prod(1 - sigmoid)"
    rest = (1 - cams.sigmoid()).prod(-1).prod(-1)
    return torch.log((1 - rest) / rest)

@benchmark('pooling', 'noisy-or beside global average pooling, forward and backward', rounds=50,
    sizes=[dict(cams=(8, 20, 16, 16)), dict(cams=(32, 20, 16, 16)), dict(cams=(32, 20, 32, 32))],
    quick=dict(cams=(2, 20, 8, 8)),
    goals=[Goal('noisy-or', 'gap', 4, gpu=2, most=True)], tolerance={'noisy-or': 1e-5})
def pooling(device, cams):
    x = torch.randn(cams, generator=torch.Generator().manual_seed(0)).to(device) - math.log(cams[-2] * cams[-1])
    return Problem({'gap': lambda: _logits_and_gradient(gap, x), 'noisy-or': lambda: _logits_and_gradient(noisy_or, x)},
        lambda: _logits_and_gradient(_product, x.double()))

@benchmark('tiles', 'CAMs of n x n tiles, EfficientNet-lite0, forward', rounds=5,
    sizes=[dict(n=n, batch=4, pixels=256) for n in (2, 4, 8, 16)], quick=dict(n=2, batch=1, pixels=64),
    goals=[Goal('one batch', 'loop over tiles', 6)], tolerance={'one batch': 1e-3})
def tiles(device, n, batch, pixels):
    torch.manual_seed(0)
    fast = CAMNet('tf_efficientnet_lite0', 20, pretrained=False).eval().to(device)
    net = plain(copy.deepcopy(fast))
    fast = fast.to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)).to(device)
    return Problem({'loop over tiles': torch.no_grad()(lambda: tiles_one_by_one(net, x, n)),
        'one batch': torch.no_grad()(lambda: merge(fast.cams(tile(x, n)), n))})

def _seeing_net(backbone, x):
    "A classifier with batch norm that has seen pictures, and is held there"
    torch.manual_seed(0)
    net = CAMNet(backbone, 20, pretrained=False).to(x.device)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.
            nn.init.uniform_(m.weight, .3, .6)
    with torch.no_grad(): net.train().cams(x[:2])
    return net.freeze()

def _train_step(task, batch, precision=None):
    "A work: two steps of SGD; returns losses and sizes of gradients of the second"
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-9)  # so small that the second step starts where the first did
    def step():
        with torch.autocast(batch['image'].device.type, precision) if precision else nullcontext():
            losses = task(batch, 0)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        ends = [p.grad.norm() for p in (next(task.net.backbone.parameters()), task.net.classifier.weight)]
        return torch.stack([*[losses[k].detach().float() for k in sorted(losses)], *ends])
    return lambda: [step() for _ in range(2)][-1]

def each_relative(a, b):
    "The largest relative difference of an entry"
    return ((a - b).abs() / b.abs()).max().item()

@benchmark('step', 'two training steps of Consistency-CAM, five views, ResNet-50: forward, backward, SGD', rounds=2,
    sizes=[dict(batch=b, pixels=256, n=4) for b in (1, 8)], gpu_sizes=[dict(batch=b, pixels=256, n=4) for b in (8, 32)],
    quick=dict(batch=1, pixels=64, n=2, backbone='resnet10t'),
    goals=[Goal('ours', 'five forwards', 1.1), Goal('ours, bfloat16', 'five forwards', 2),
        Goal('product, bfloat16', 'product')],
    tolerance={'ours': .01, 'ours, bfloat16': .2}, difference=each_relative,
    precision={'ours, bfloat16': 'bfloat16', 'product, bfloat16': 'bfloat16'})
def step(device, batch, pixels, n, backbone='resnet50'):
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.randn(batch, 3, pixels // 8, pixels // 8, generator=generator),
        scale_factor=8, mode='bicubic').to(device)
    y = (torch.rand(batch, 20, generator=generator) < .2).float().to(device)
    net = _seeing_net(backbone, x)
    views = [Tiles(n), RandomCrop((.75, .75)), HFlip(), RandomResize((.75, .75))]
    task = lambda kind: kind(copy.deepcopy(net), views, ramp=0)
    batches = dict(image=x, labels=y), dict(image=x.contiguous(memory_format=torch.channels_last), labels=y)
    ours = [task(ConsistencyTask).train().to(memory_format=torch.channels_last) for _ in range(2)]
    literal = plain(task(FiveForwards).train())
    A = torch.randn(1024, 1024, generator=generator).to(device)
    B = A.bfloat16()
    return Problem({'five forwards': _train_step(literal, batches[0]),
        'ours': reused_memory()(_train_step(ours[0], batches[1])),
        'ours, bfloat16': reused_memory()(_train_step(ours[1], batches[1], torch.bfloat16)),
        'product': lambda: A @ A, 'product, bfloat16': lambda: B @ B})

def _products(operations, device, n=1024):
    "A work: as many floating point operations as products of (n,n) matrices"
    A, times = torch.randn(n, n, device=device), max(1, round(operations / (2 * n ** 3)))
    B, C = A.T.contiguous(), torch.empty_like(A)
    def multiply():
        for _ in range(times): torch.mm(A, B, out=C)
        return C[:1]
    return multiply

@benchmark('cams', 'CAM inference at four scales with the mirror image, ResNet-50', rounds=5,
    sizes=[dict(pictures=p, size=(375, 500)) for p in (1, 2)], gpu_sizes=[dict(pictures=p, size=(375, 500))
        for p in (4, 16)], quick=dict(pictures=2, size=(48, 64), backbone='resnet10t'),
    goals=[Goal('ours', 'one at a time', 1.5, gpu=4), Goal('ours', 'its products', most=True)],
    tolerance={'ours': 1e-3})
def cams(device, pictures, size, backbone='resnet50'):
    scenes = Scenes(pictures, seed=0, size=max(size))
    images = torch.stack([scenes.image(i)[:, :size[0], :size[1]] for i in range(pictures)])
    fast = _seeing_net(backbone,
        torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)).eval()
    net, labels = plain(copy.deepcopy(fast)), torch.zeros(pictures, 20)
    fast = fast.to(memory_format=torch.channels_last)
    for i in range(pictures): labels[i, [i % 20, (i + 7) % 20]] = 1
    together = lambda found: torch.stack([torch.stack([*f.values()]) for f in found])
    nothing = copy.deepcopy(net).to('meta'), torch.empty(pictures, 3, *size, device='meta')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        [scaled_evidence(*nothing, s, True) for s in (.5, 1., 1.5, 2.)]
    return Problem({'one at a time': lambda: together([cams_one_at_a_time(net, x, y) for x, y in zip(images, labels)]),
        'ours': lambda: together(infer_batch(fast, images, labels)),
        'its products': _products(counter.get_total_flops(), device)})

def _cams_and_mask(generator, size, classes=20):
    "One picture: CAMs {mask id: (H,W) in 0..1} of 1 to 3 classes, and a true mask (H,W) with void"
    ids = (torch.randperm(classes, generator=generator)[:torch.randint(1, 4, (), generator=generator)] + 1).tolist()
    cells = torch.randn(1, len(ids), size[0] // 16 + 1, size[1] // 16 + 1, generator=generator)
    maps = F.interpolate(F.avg_pool2d(cells, 5, 1, 2), size=size, mode='bilinear')[0].relu()
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5)
    value, index = maps.max(0)
    target = torch.where(value > .3, torch.tensor(ids)[index], 0)
    return dict(zip(ids, maps)), target.masked_fill((value - .3).abs() < .03, 255).to(torch.uint8)

@benchmark('sweep', 'mIoU of CAMs at sixty thresholds', rounds=5,
    sizes=[dict(pictures=p, size=(375, 500)) for p in (4, 16)], quick=dict(pictures=2, size=(48, 64)),
    goals=[Goal('sweep', 'one evaluation', 1.5, most=True), Goal('sweep', 'sixty evaluations')], tolerance={'sweep': 0})
def sweep(device, pictures, size):
    generator = torch.Generator().manual_seed(0)
    known = [_cams_and_mask(generator, size) for _ in range(pictures)]
    there = [({i: m.to(device) for i, m in cams.items()}, target.to(device)) for cams, target in known]
    thresholds = ThresholdSweep(21).thresholds.tolist()
    at = lambda t: torch.from_numpy(evaluate_at(known, t, 21))
    def swept():
        s = ThresholdSweep(21)
        for cams, target in there: s.update(cams, target)
        return s.matrices()[..., :21]
    works = {'one evaluation': lambda: at(.3), 'sixty evaluations': lambda: torch.stack([at(t) for t in thresholds]),
        'sweep': swept}
    return Problem(works, works['sixty evaluations'])

def _walk_inputs(grid, classes, device):
    "CAMs (K,h,w) and smooth edges (h,w)"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, *(-(-s // 4) for s in grid), generator=generator) ** 3
    edge = F.interpolate(coarse, grid, mode='bicubic')[0, 0].clamp(0, 1)
    return torch.rand(classes, *grid, generator=generator).to(device), edge.to(device)

def _walk_by_steps(cams, edge, steps):
    "The walk step by step"
    change, x = step_change(path_affinity(edge, 5), 10.), (cams * (1 - edge)).flatten(1).T.contiguous()
    for _ in range(steps): x = x + change @ x
    return x.T.reshape(cams.shape)

def _copies(values, times):
    "A work that moves so many float32 values so often: half of them read, half written"
    source = torch.ones(values // 2)
    target = torch.empty_like(source)
    def move():
        for _ in range(times): target.copy_(source)
        return target[:1]
    return move

@benchmark('walk', 'random walk, radius 5, 256 steps', rounds=3,
    sizes=[dict(grid=g, classes=3) for g in ((24, 32), (47, 63), (94, 125))], quick=dict(grid=(12, 16), classes=2),
    goals=[Goal('ours', 'squaring', 1500), Goal('ours', 'moving its bytes', most=True)], tolerance={'ours': 1e-4},
    operations=lambda grid, classes: (grid[0] * grid[1]) ** 3)
def walk(device, grid, classes):
    cams, edge = _walk_inputs(grid, classes, device)
    entries = (2 * len(offsets(5)) + 1) * edge.numel()
    works = {'squaring': lambda: walk_by_squaring(cams, edge), 'ours': lambda: random_walk(cams, edge, 5, 10, 256),
        'moving its bytes': _copies(entries, len(power_weights(256)) - 1)}
    if edge.numel() > 5000: works.pop('squaring')
    return Problem(works, None if 'squaring' in works else lambda: _walk_by_steps(cams, edge, 256))

@benchmark('affinity', 'labels and loss of all pairs of cells, forward and backward', rounds=3,
    sizes=[dict(pictures=p, grid=(128, 128), radius=r) for p, r in ((1, 5), (1, 10), (4, 10))],
    quick=dict(pictures=2, grid=(16, 20), radius=5),
    goals=[Goal('ours', 'pair by pair', 3)], tolerance={'ours': 1e-3})
def affinity(device, pictures, grid, radius):
    generator = torch.Generator().manual_seed(0)
    edge = torch.rand(pictures, *grid, generator=generator).to(device)
    coarse = torch.tensor([0, 0, 1, 2, 255])[torch.randint(5,
        (pictures, 1, *(-(-s // 8) for s in grid)), generator=generator)].float()
    labels = F.interpolate(coarse, grid, mode='nearest')[:, 0].to(device, torch.uint8)
    def lost(losses):
        x = edge.detach().requires_grad_()
        found = losses(x)
        sum(found.values()).backward()
        return torch.stack([*found.values()]).detach(), x.grad
    return Problem({'pair by pair': lambda: lost(lambda x: losses_pair_by_pair(x, labels, radius)),
        'ours': lambda: lost(lambda x: affinity_loss(path_affinity(x, radius), pair_labels(labels, radius)))})

def _coarse_probs(scenes, i, size):
    "(image uint8 (3,H,W), probabilities (21,H,W)): a scene, seen by a coarse classifier that was told its labels"
    image, mask = (x[..., :size[0], :size[1]] for x in (scenes.image(i), scenes.mask(i)))
    present = sorted({0, *(scenes.labels[i].nonzero().flatten() + 1).tolist()})
    logits = torch.randn(1, 21, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(i))
    cells = F.interpolate(mask[None, None].float(), logits.shape[2:], mode='nearest-exact').long()
    logits.scatter_add_(1, cells, torch.full_like(logits[:, :1], 4.))
    probs = torch.zeros(21, *size)
    probs[present] = F.interpolate(logits[:, present], size, mode='bilinear')[0].softmax(0)
    return image, probs

@benchmark('crf', 'dense CRF of pictures with up to three classes of twenty', rounds=2,
    sizes=[dict(pictures=p, size=(375, 500)) for p in (4, 32)], quick=dict(pictures=2, size=(64, 96)),
    goals=[Goal('ours', 'one process, 21 classes', 4)], tolerance={'ours': .005}, difference=share)
def crf(device, pictures, size):
    scenes = Scenes(pictures, seed=0, size=max(size))
    jobs = [(str(i), _coarse_probs(scenes, i, size)) for i in range(pictures)]
    masks = lambda found: torch.stack([p.argmax(0) for p in found])
    return Problem({'one process, 21 classes': lambda: masks(crf_all_classes(*j) for _, j in jobs),
        'ours': lambda: masks(p for _, p in crf_many(jobs, progress=False))})

@benchmark('pipeline', 'the recipe quick on generated pictures, from labels to evaluated masks', rounds=1,
    sizes=[dict(pictures=p) for p in (16, 32)], quick=dict(pictures=4, pixels=64),
    goals=[Goal('ours', 'literal stages', 2)], tolerance={'ours': .02}, difference=share)
def pipeline(device, pictures, pixels=None):
    small = dict(epochs=2, batch_size=2, crop=pixels, long_side=(pixels, pixels))
    changes = {f'{part}{name}': v for part in ('', 'affinity_', 'segment_')
        for name, v in small.items()} | dict(size=pixels) if pixels else {}
    r = recipe('quick', **dict(pictures=pictures, affinity_batch_size=8, val='') | changes)
    def ours():
        # of pictures without evidence, as after so short a training
        with TemporaryDirectory() as d, warnings.catch_warnings(action='ignore'):
            done = run(r, d, progress=False)
            return torch.stack([read_mask(Path(d)/'pseudo'/r.data.train/f'{id}.png')
                for id in done.samples(r.data.train).ids])
    def literal():
        with TemporaryDirectory() as d: return torch.stack(literal_run(r, d)['pseudo'])
    return Problem({'literal stages': literal, 'ours': ours})
