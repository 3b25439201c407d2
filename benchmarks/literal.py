"""Stage by stage what formula and published programs do, one thing at a time: the fast versions have to equal it.

Fast code is worth nothing if it computes something else. So here is each stage once more, in the plainest way there
is: a loop where the formula has an index, one picture at a time, every matrix dense. This is also how the published
programs (Puzzle-CAM, psa, IRNet) work. `tests/test_literal.py` holds that ours gives the same; `benchmarks.stages`
times the two beside each other.
"""

from functools import lru_cache
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from consistency_cam.datasets.samples import write_mask
from consistency_cam.tools.transforms import Augment, Augmented, Batches, collate, seeded_generator
from consistency_cam.tools.training import Settings, param_groups, poly, total_steps
from consistency_cam.datasets.folder import WithMasks
from consistency_cam.fast.swap import plain
from consistency_cam.camnet import CAMNet
from consistency_cam.cams import snapped_size
from consistency_cam.consistency import alpha_at
from consistency_cam.crf import LABEL_CRF, SOFTMAX_CRF, CRFSetting, label_crf, mean_field
from consistency_cam.affinity import BoundaryNet, infer_edge, offsets, path, to_grid
from consistency_cam.randomwalk import random_walk
from consistency_cam.segment import SegmentationTask
from consistency_cam.experiments.recipes import Recipe
from consistency_cam.experiments.pipeline import Run

# Tiles: one is cut out, goes through the network, and its map is put where it belongs.

def cut(
    x: torch.Tensor,  # (B,C,H,W)
    n: int,  # tiles per side
) -> list:  # n*n tensors (B,C,H/n,W/n), row by row: a place of the picture each
    "The tiles of a batch, place by place"
    h, w = (s // n for s in x.shape[-2:])
    return [x[..., r*h:r*h+h, c*w:c*w+w] for r in range(n) for c in range(n)]

def join(
    tiles: list,  # n*n tensors (B,C,h,w), row by row
    n: int,  # tiles per side
) -> torch.Tensor:  # (B,C,n*h,n*w)
    "Tiles put together again"
    return torch.cat([torch.cat(tuple(tiles[r*n:r*n+n]), -1) for r in range(n)], -2)

def tiles_one_by_one(
    net: CAMNet,
    x: torch.Tensor,  # (B,3,H,W) normalised pictures
    n: int,  # tiles per side
) -> torch.Tensor:  # (B,C,h,w)
    "The merged CAM of the tiles, a forward pass for each place"
    return join([net.cams(t) for t in cut(x, n)], n)

# A training step: the losses of Eq. 1 to 3, and five forward passes one after the other, each with a graph of its own.

def soft_margin(
    cams: torch.Tensor,  # (B,C,h,w)
    labels: torch.Tensor,  # (B,C)
) -> torch.Tensor:
    "-mean(y log s(a) + (1-y) log s(-a)), a the mean of a class's map (Eq. 1)"
    a = cams.mean((-2, -1))
    return -(labels * F.logsigmoid(a) + (1 - labels) * F.logsigmoid(-a)).mean()

def distance(
    a: torch.Tensor,  # (B,C,h,w)
    b: torch.Tensor,  # (B,C,h,w)
    labels: torch.Tensor,  # (B,C)
) -> torch.Tensor:
    "mean |a-b| y (Eq. 2)"
    return ((a - b).abs() * labels[:, :, None, None]).mean()

class FiveForwards(nn.Module):
    "Consistency-CAM as the formula has it, for views named tiles, crop, flip and resize"
    def __init__(self, net: CAMNet, views: list, total: int = 1000, alpha: float = 4., ramp: float = .5, seed: int = 0):
        super().__init__()
        self.net, self.views, self.total, self.alpha, self.ramp, self.seed = net, views, total, alpha, ramp, seed

    def forward(self, batch, step):
        x, y, net, s = batch['image'], batch['labels'], self.net, self.net.stride
        generator = seeded_generator(self.seed, step)
        t = {v.name: v.sample(x.shape[-2:], s, generator) for v in self.views}
        n, c, (H, W) = t['tiles'].n, t['crop'], (t['resize'].height, t['resize'].width)
        scale = lambda m, size: F.interpolate(m, size, mode='bilinear', align_corners=False,
            antialias=size[0] < m.shape[-2])
        A = net.cams(x)
        pairs = dict(
            tiles=(join(net.cams(torch.cat(cut(x, n))).chunk(n * n), n), A),
            crop=(net.cams(x[..., c.top:c.top + c.height, c.left:c.left + c.width]),
                A[..., c.top // s:(c.top + c.height) // s, c.left // s:(c.left + c.width) // s]),
            flip=(net.cams(x.flip(-1)), A.flip(-1)),
            resize=(net.cams(scale(x, (H, W))), scale(A, (H // s, W // s))))
        losses, alpha = dict(cls=soft_margin(A, y)), alpha_at(step, self.total, self.alpha, self.ramp)
        for name, (a, b) in pairs.items(): losses |= {f'{name}_cls': soft_margin(a, y), name: alpha * distance(a, b, y)}
        return losses

# CAM inference: relu, turn back, bring to the picture's size, add up, divide each class by its maximum.

@torch.no_grad()
def cams_one_at_a_time(
    net: CAMNet,  # in eval mode, pooled by GAP
    image: torch.Tensor,  # (3,H,W) uint8 picture
    labels: torch.Tensor,  # (C,) 1 where a class is given
    scales: tuple = (.5, 1., 1.5, 2.),  # of the picture's sides
    stride: int = 1,  # pixels a cell of the result
) -> dict:  # {mask id 1..C: map in 0..1}
    "Normalised CAMs of one picture with its mirror image"
    x, size, total = net.normalize(image[None].to(net.mean.device)), tuple(-(-s // stride) for s in image.shape[1:]), 0
    for scale in scales:
        y = F.interpolate(x, snapped_size(image.shape[1:], scale, net.stride), mode='bicubic',
            align_corners=False, antialias=scale < 1)
        for turn in (lambda m: m, lambda m: m.flip(-1)):
            m = turn(net.cams(turn(y)).float().relu())
            total = total + F.interpolate(m, size, mode='bilinear', align_corners=False)[0]
    return {c + 1: total[c] / (total[c].max() + 1e-5) for c in labels.nonzero().flatten().tolist()}

# Evaluation at one threshold: the background's constant score beside the maps, the highest wins, and the pairs of
# true and predicted class are counted. A curve over thresholds is that many evaluations.

def mask_at(
    cams: dict,  # {mask id: map (H,W)}
    threshold: float,  # the background's score
    size: tuple,  # (H,W) of the picture
) -> np.ndarray:  # (H,W)
    "The class of the highest score"
    ids = np.array([0, *sorted(cams)])
    return ids[np.stack([np.full(size, threshold, np.float32), *(np.asarray(cams[i]) for i in sorted(cams))]).argmax(0)]

def confusion(
    pred: np.ndarray,  # (H,W) class ids
    target: np.ndarray,  # (H,W) class ids and 255, which is left out
    classes: int,  # background among them
) -> np.ndarray:  # (classes,classes) true class by predicted class
    "How often each true class was called each class"
    known = target != 255
    return np.bincount(classes * target[known].astype(np.int64) + pred[known],
        minlength=classes ** 2).reshape(classes, classes)

def evaluate_at(
    pictures: list,  # of ({mask id: map (H,W)}, true mask (H,W))
    threshold: float,
    classes: int,
) -> np.ndarray:  # (classes,classes)
    "One evaluation at one threshold"
    return sum(confusion(mask_at(cams, threshold, target.shape), np.asarray(target), classes)
        for cams, target in pictures)

def mean_iou(
    matrix: np.ndarray,  # (classes,classes)
) -> float:
    "Mean of TP / (TP + FP + FN) over the classes that occur"
    hits, all = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return (hits[all > 0] / all[all > 0]).mean()

# Affinity: which cells lie between the two cells of a pair is written into tables once for a size; with them
# everything is a gather, picture by picture and offset by offset.

@lru_cache(8)
def path_tables(
    size: tuple,  # (h,w) of the grid
    radius: int,  # cells
    device: torch.device|None = None,
) -> list:  # for each offset: cells of one end (P,), of the other end (P,), of the way between (L,P)
    "The pairs of a grid that lie inside it, as indices"
    h, w = size
    cells, tables = torch.arange(h * w, device=device).view(h, w), []
    for dy, dx in offsets(radius):
        left, right = max(0, -dx), w - max(0, dx)
        at = lambda y, x: cells[y:y + h - dy, left + x:max(right, left) + x].flatten()
        tables.append((at(0, 0), at(dy, dx), torch.stack([at(*p) for p in path(dy, dx)])))
    return tables

def losses_pair_by_pair(
    edge: torch.Tensor,  # (B,h,w) in 0..1
    labels: torch.Tensor,  # (B,h,w) 0 background, 1..C, 255 unsure
    radius: int,  # cells
) -> dict:  # 'background', 'foreground', 'different': scalars, their weights applied
    "The affinity loss, picture by picture and offset by offset"
    sums, counts = [0.] * 3, [0] * 3
    for e, l in zip(edge.flatten(1), labels.flatten(1)):
        for here, there, way in path_tables(tuple(edge.shape[1:]), radius, edge.device):
            a, p, q = 1 - e[way].max(0).values, l[here], l[there]
            known, same = (p != 255) & (q != 255), p == q
            together, apart = -torch.log(a + 1e-5), -torch.log(1 + 1e-5 - a)
            for k, (loss, mask) in enumerate(((together, same & (p == 0)), (together, same & (p > 0)), (apart, ~same))):
                sums[k], counts[k] = sums[k] + (loss * (mask & known)).sum(), counts[k] + (mask & known).sum()
    means = [s / n.clamp(min=1) for s, n in zip(sums, counts)]
    return dict(background=means[0] / 4, foreground=means[1] / 4, different=means[2] / 2)

class PairByPair(nn.Module):
    "Trains a boundary network by `losses_pair_by_pair`"
    def __init__(self, net: BoundaryNet, radius: int):
        super().__init__()
        self.net, self.radius = net, radius

    def forward(self, batch, step):
        return losses_pair_by_pair(self.net(batch['image']).float().sigmoid(),
            to_grid(batch['mask'], self.net.stride).long(), self.radius)

# Random walk: the affinities of all pairs of cells as one matrix, each column divided by its sum, squared eight
# times: 256 steps. The errors of each squaring are squared with it: in 32 bits this is further from the same walk in
# 64 bits than ours is.

def dense_affinity(
    edge: torch.Tensor,  # (h,w) in 0..1
    radius: int,  # cells
) -> torch.Tensor:  # (h*w,h*w)
    "1 - the strongest edge between each two cells, 0 for cells further apart than the radius"
    e = edge.flatten()
    A = torch.eye(len(e), dtype=e.dtype, device=e.device)
    for here, there, way in path_tables(tuple(edge.shape), radius, edge.device):
        A[here, there] = A[there, here] = 1 - e[way].max(0).values
    return A

def walk_by_squaring(
    cams: torch.Tensor,  # (K,h,w)
    edge: torch.Tensor,  # (h,w) in 0..1
    radius: int = 5,  # cells
    beta: float = 10.,  # power of the affinities
    squarings: int = 8,  # 2^8 = 256 steps
) -> torch.Tensor:  # (K,h,w)
    "The class maps times 1 - edge, after the walk"
    T = dense_affinity(edge, radius) ** beta
    T = T / T.sum(0)
    for _ in range(squarings): T = T @ T
    return ((cams * (1 - edge)).flatten(1) @ T).view_as(cams)

# CRF: over all classes the data set has, whether or not they can be in the picture, in one process.

def crf_all_classes(
    image: torch.Tensor,  # (3,H,W) uint8 picture
    probs: torch.Tensor,  # (K,H,W) probabilities of all classes, background first
    setting: CRFSetting = SOFTMAX_CRF,
) -> torch.Tensor:  # (K,H,W)
    "Mean field over every class"
    return torch.from_numpy(mean_field(image.permute(1, 2, 0).numpy(), probs.cpu().numpy(), setting))

# All of it: the recipe of a run from the first stage to the last. Each step of a training waits for each of its
# losses to be told, and the networks are timm's as they are, with PyTorch's own layers. Maps come from four pixels
# per cell to the picture's size and are divided by their one maximum; hard labels follow the picture's edges. Labels
# for the affinity network: a class where it wins against a high background score, background where that wins at a low
# one, unsure elsewhere.

def train_plainly(
    task: nn.Module,  # forward(batch, step) -> {name: loss}
    data: Augmented,
    settings: Settings,
) -> nn.Module:  # the task's network, in eval mode
    "The common schedule, step by step"
    steps = total_steps(len(data), settings)
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.SGD(param_groups(task.train(), settings), momentum=settings.momentum)
    batches = Batches(len(data), settings.batch_size, steps, settings.seed)
    for step, batch in enumerate(DataLoader(data, batch_sampler=batches,
        collate_fn=collate, generator=torch.Generator())):
        for g in optimizer.param_groups: g['lr'] = g['first_lr'] * poly(step, steps, settings.power)
        losses = task(batch, step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        for loss in losses.values(): loss.item()
    return task.net.eval()

def _train(run, task, samples, part='classify', masks=False):
    "The task's network after the recipe's training of that part"
    settings, like = run.settings(part), getattr(task.net, 'net', task.net)
    augment = Augment(settings.crop, settings.long_side, mean=like.mean.flatten().tolist(),
        std=like.std.flatten().tolist(), masks=masks)
    return train_plainly(task, Augmented(samples, augment, run.recipe.seed), settings)

def enlarge(
    cams: dict,  # {mask id: map (ceil(H/4),ceil(W/4))}
    size: tuple,  # (H,W)
) -> dict:  # {mask id: map (H,W) in 0..1}
    "Maps at the picture's size, the highest score 1"
    maps = F.interpolate(torch.stack([*cams.values()])[None], scale_factor=4, mode='bilinear',
        align_corners=False)[0, :, :size[0], :size[1]]
    return dict(zip(cams, maps / maps.max().clamp(min=1e-12)))

def hard_mask(
    run: Run,
    image: torch.Tensor,  # (3,H,W) uint8 picture
    cams: dict,  # {mask id: map (H,W)}
    threshold: float,
) -> torch.Tensor:  # (H,W) uint8
    "The mask at a threshold after the CRF"
    mask = torch.from_numpy(mask_at(cams, threshold, tuple(image.shape[1:]))).to(torch.uint8)
    return label_crf(image, mask, [0, *sorted(cams)], run.crf(LABEL_CRF)) if run.recipe.pseudo.crf else mask

def _classify(run, samples):
    "Trained classifier, and the CAMs of every picture at four pixels a cell"
    r, net = run.recipe, plain(run.make_net())
    task = FiveForwards(net, run.views, total_steps(len(samples), run.settings()),
        r.classify.alpha, r.classify.ramp, r.seed)
    _train(run, task, samples)
    return [cams_one_at_a_time(net, samples.image(i), samples.labels[i], r.cams.scales, 4) for i in range(len(samples))]

def _walk(run, samples, found, folder):
    "The maps of every picture after the walk along the boundaries that a network learns from them"
    (low, high), r = run.recipe.affinity.scores, run.recipe
    useful = [i for i, cams in enumerate(found) if any(m.any() for m in cams.values())]
    for i in useful:
        image = samples.image(i)
        cams = enlarge(found[i], tuple(image.shape[1:]))
        strict, loose = (hard_mask(run, image, cams, t) for t in (high, low))
        write_mask(torch.where(strict > 0, strict, torch.where(loose == 0, 0, 255).to(strict)),
            folder/f'{samples.ids[i]}.png')
    net = plain(run.make_affinity(run.start()))
    _train(run, PairByPair(net, r.affinity.radius), WithMasks(samples.subset(useful), folder), 'affinity', True)
    walked = []
    for i, cams in enumerate(found):
        edge = infer_edge(net, samples.image(i))
        walked.append(dict(zip(cams, random_walk(torch.stack([*cams.values()]), edge, r.walk.radius,
            r.walk.beta, r.walk.steps))))
    return walked

@torch.no_grad()
def segment_one_at_a_time(
    net: nn.Module,  # segmenter in eval mode
    image: torch.Tensor,  # (3,H,W) uint8 picture
    scales: tuple,  # of the picture's sides
) -> torch.Tensor:  # (K,H,W) probabilities
    "Softmax of the sum of logits over scales and mirror images"
    x, size, total = net.normalize(image[None]), tuple(image.shape[1:]), 0
    for scale in scales:
        y = F.interpolate(x, snapped_size(size, scale, net.stride), mode='bicubic', align_corners=False, antialias=scale < 1)
        for turn in (lambda m: m, lambda m: m.flip(-1)):
            total = total + F.interpolate(turn(net.logits(turn(y))).float(), size, mode='bilinear', align_corners=False)
    return total.softmax(1)[0]

def _segment(run, samples, folder):
    "The masks of every picture by a segmenter that has learned those of the folder"
    r, K = run.recipe, len(samples.classes) + 1
    net, masks = plain(run.make_segmenter(K, run.start())), []
    _train(run, SegmentationTask(net), WithMasks(samples, folder), 'segment', True)
    for i in range(len(samples)):
        image = samples.image(i)
        probs = segment_one_at_a_time(net, image, r.segment.scales)
        masks.append((crf_all_classes(image, probs, run.crf(SOFTMAX_CRF)) if r.segment.crf
            else probs).argmax(0).to(torch.uint8))
    return masks

def literal_run(
    r: Recipe,  # method 'consistency-cam', pooled by GAP, with boundaries, CRF and a segmenter
    folder: str|Path,  # for the masks
    thresholds: int = 80,  # each evaluated by itself, a hundredth apart
) -> dict:  # curves of cams and walk; pseudo and segment: lists of masks
    "The recipe on its training pictures, stage after stage, each evaluated"
    folder, run = Path(folder), Run(folder, r, progress=False)
    samples, K = run.samples(r.data.train), len(run.classes) + 1
    truth = [samples.mask(i) for i in range(len(samples))]
    curve = lambda found: [mean_iou(evaluate_at([(enlarge(c, t.shape), t) for c, t in zip(found, truth)], k / 100, K))
        for k in range(thresholds)]
    cams = _classify(run, samples)
    out = dict(cams=curve(cams))
    walked = _walk(run, samples, cams, folder/'labels')
    out['walk'] = curve(walked)
    pseudo = [hard_mask(run, samples.image(i), enlarge(c, truth[i].shape), r.pseudo.background[0])
        for i, c in enumerate(walked)]
    for id, mask in zip(samples.ids, pseudo): write_mask(mask, folder/'pseudo'/f'{id}.png')
    segmented = _segment(run, samples, folder/'pseudo')
    for masks in (pseudo, segmented): mean_iou(sum(confusion(m.numpy(), t.numpy(), K) for m, t in zip(masks, truth)))
    return out | dict(pseudo=pseudo, segment=segmented)
