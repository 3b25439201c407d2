"""The greatest memory of each stage's work, each measured in a process of its own, of one thread.

    python -m benchmarks.memory [--only NAME ...] [--result results/memory.json]

A figure is the largest resident size of the process (`ru_maxrss`) less what it was when everything was imported and
nothing made: weights, pictures, activations and gradients count, Python and torch do not. The stages work on ResNet-50,
pictures of 256 pixels in batches of 4, or of 375x500. `cams-N` goes through a run's CAM inference, sweep and evaluation
on N pictures in files (scenes of 64 pixels), three times, so that one sees whether memory grows with the data set.
"""
import argparse, json, os, resource, shutil, subprocess, sys, tempfile
from pathlib import Path

PICTURES, ROUNDS = (32, 128, 512), 3
SIZE, CLASSES = (375, 500), 20


def batch(side, n, num_classes=CLASSES):
    "n pictures of noise with three classes each, and masks"
    import torch
    labels = torch.zeros(n, num_classes)
    labels[:, :3] = 1
    return dict(image=torch.randn(n, 3, side, side), labels=labels,
        mask=torch.randint(0, 4, (n, side, side), dtype=torch.uint8), id=[str(i) for i in range(n)])


def training_step(task, batch, accumulate=1, step=600):
    "One step of a task as the loop takes it; its gradients {name: tensor}"
    import torch
    from consistency_cam.files.memory import reused_memory
    from consistency_cam.tools.training import make_accelerator, step_gradients
    with reused_memory():
        step_gradients(task.train().to(memory_format=torch.channels_last), batch, step, make_accelerator(), accumulate)
    return {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


def resnet(num_classes=CLASSES, **options):
    import torch
    from consistency_cam.camnet import CAMNet
    torch.manual_seed(0)
    return CAMNet('resnet50', num_classes, pretrained=False, **options)


def classify(frugal=False, accumulate=1, held=False):
    "Classifier and four views, which with the whole picture are five forwards and one backward"
    from consistency_cam.consistency import ConsistencyTask, METHODS
    from consistency_cam.experiments.recipes import recipe
    views = METHODS['consistency-cam'].views(None, recipe('paper', tiles=(4,)))
    net = resnet().freeze() if held else resnet()
    return training_step(ConsistencyTask(net, views, frugal=frugal), batch(256, 4), accumulate)


def pretrain():
    from consistency_cam.iterated import IteratedLearning
    training_step(IteratedLearning(resnet(1000, pool='noisy_or', bias=-12.), k_teacher=1, k_student=1), batch(224, 4, 1000),
        step=1)


def cams():
    "Sixteen pictures at twice their size and mirrored, the largest of the four scales"
    import torch
    from consistency_cam.cams import infer_batch
    labels = torch.zeros(16, CLASSES)
    labels[:, :3] = 1
    infer_batch(resnet().eval(), torch.randint(0, 256, (16, 3, *SIZE), dtype=torch.uint8), labels, (2.,), True, 4)


def sweep():
    import torch
    from consistency_cam.tools.metrics import ThresholdSweep
    found = ThresholdSweep(CLASSES + 1, torch.arange(80).double() / 100)
    for i in range(32): found.update({c: torch.rand(SIZE) for c in (1, 5, 9)}, torch.randint(0, CLASSES + 1, SIZE))


def affinity():
    from consistency_cam.affinity import AffinityTask, BoundaryNet
    training_step(AffinityTask(BoundaryNet(resnet(1)), 10), batch(256, 4))


def walk():
    import torch
    from consistency_cam.randomwalk import random_walk
    for i in range(4): random_walk(torch.rand(3, 94, 125), torch.rand(94, 125))


def _probable(n, K):
    "n pictures and K smooth probabilities for each"
    import torch
    from torch.nn.functional import interpolate
    for i in range(n):
        logits = interpolate(torch.randn(1, K, 12, 16), SIZE, mode='bilinear')[0]
        yield str(i), (torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), (3 * logits).softmax(0))


def crf():
    "A pool of two processes over pictures of three classes and background"
    from consistency_cam.crf import crf_many
    for _ in crf_many(_probable(16, 4), workers=2, progress=False): pass


def segment():
    from consistency_cam.deeplab import DeepLabV3Plus
    from consistency_cam.segment import SegmentationTask
    training_step(SegmentationTask(DeepLabV3Plus('resnet50', CLASSES + 1, pretrained=False)), batch(256, 4))


def masks():
    "A picture at its four scales and mirrored, and its mask counted"
    import torch
    from consistency_cam.deeplab import DeepLabV3Plus
    from consistency_cam.tools.metrics import ConfusionMatrix
    from consistency_cam.segment import segment_image
    probs = segment_image(DeepLabV3Plus('resnet50', CLASSES + 1, pretrained=False).eval(),
        torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8))
    ConfusionMatrix(CLASSES + 1).update(probs.argmax(0), torch.randint(0, CLASSES + 1, SIZE))


def evaluate():
    import torch
    from consistency_cam.tools.metrics import ConfusionMatrix
    matrix = ConfusionMatrix(CLASSES + 1)
    for i in range(32): matrix.update(torch.randint(0, CLASSES + 1, SIZE), torch.randint(0, CLASSES + 1, SIZE))


WORKS = {
    'iterated pre-training': (pretrain, 'a step taught by the teacher: 4 pictures of 224 pixels, 1,000 classes'),
    'classify': (classify, 'a step: 4 pictures of 256 pixels, five views'),
    'classify, accumulate 2': (lambda: classify(accumulate=2), 'the same in two pieces of 2 pictures'),
    'classify, frugal': (lambda: classify(frugal=True), "the same with one view's graph at a time"),
    'classify, held': (lambda: classify(held=True), 'the same with batch norm held, and in the convolutions'),
    'CAM inference': (cams, 'a batch: 16 pictures of 375x500, twice their size, with mirror images'),
    'threshold sweep': (sweep, '80 thresholds, 21 classes, a picture of 375x500 at a time'),
    'affinity': (affinity, 'a step: 4 pictures of 256 pixels, radius 10'),
    'random walk': (walk, 'a picture: 94x125 cells, radius 5, 256 steps, 3 classes'),
    'CRF pool': (crf, 'pictures of 375x500, 4 classes, in two further processes'),
    'segmenter': (segment, 'a step of DeepLabV3+: 4 pictures of 256 pixels'),
    'segmenting': (masks, 'a picture of 375x500, four scales with mirror images'),
    'evaluation': (evaluate, 'masks of 375x500, one at a time'),
}


def _run(folder, pictures):
    "A run on so many pictures in files, its classifier hardly trained"
    from PIL import Image
    from consistency_cam.experiments.pipeline import Run
    from consistency_cam.experiments.recipes import recipe
    from consistency_cam.datasets.samples import write_mask
    from consistency_cam.datasets.scenes import Scenes
    place = Path(folder)/'data'
    made = Scenes(pictures, size=64)
    for kind in ('pictures', 'masks'): (place/kind).mkdir(parents=True)
    rows = ['id,labels']
    for i, id in enumerate(made.ids):
        Image.fromarray(made.image(i).permute(1, 2, 0).numpy()).save(place/'pictures'/f'{id}.png')
        write_mask(made.mask(i), place/'masks'/f'{id}.png')
        rows.append(f"{id},{';'.join(c for c, there in zip(made.classes, made.labels[i]) if there)}")
    (place/'labels.csv').write_text('\n'.join(rows))
    tiny = recipe('quick', data='folder', root=str(place/'pictures'), masks=str(place/'masks'),
        labels=str(place/'labels.csv'), train='all', val='', method='cam', epochs=1, crop=64,
        long_side=(56, 72), batch_size=32)
    Run(Path(folder)/'run', tiny, progress=False).classify()


def _maps(folder, turn):
    "CAM inference with its sweep, and the evaluation of a copy of a run"
    from consistency_cam.experiments.pipeline import Run
    run = Run(shutil.copytree(Path(folder)/'run', Path(folder)/f'run {turn}'), progress=False)
    run.cams('all')
    run.evaluate('cams')


def _imports():
    import torch, consistency_cam.experiments.pipeline, consistency_cam.segment, pydensecrf.densecrf
    torch.set_num_threads(1)
    torch.manual_seed(0)


def measure(name, folder, turn=0):
    "Do a work, print its peak in bytes, and leave its gradients in the folder"
    _imports()
    size = lambda who: 1024 * resource.getrusage(who).ru_maxrss
    before = size(resource.RUSAGE_SELF)
    gradients = _maps(folder, turn) if name.startswith('cams-') else WORKS[name][0]()
    found = dict(peak=size(resource.RUSAGE_SELF) - before, before=before)
    if name == 'CRF pool': found['of_a_process'] = size(resource.RUSAGE_CHILDREN) - before
    if gradients:
        from safetensors.torch import save_file
        save_file({n: g.contiguous() for n, g in gradients.items()}, Path(folder)/f'{name}.safetensors')
    print(json.dumps(found))


def difference(folder):
    "The largest relative difference between a parameter's gradients with all graphs alive and with one at a time"
    from safetensors.torch import load_file
    one, other = (load_file(Path(folder)/f'{name}.safetensors') for name in ('classify', 'classify, frugal'))
    assert one.keys() == other.keys()
    print(max(((other[n] - g).norm() / g.norm()).item() for n, g in one.items()))


def call(*arguments):
    "The JSON that another process of this program prints; a small one must start it, for it inherits the size"
    done = subprocess.run([sys.executable, '-m', 'benchmarks.memory', *map(str, arguments)], capture_output=True,
        text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout or 'null')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', metavar='NAME', default=[*WORKS, *(f'cams-{n}' for n in PICTURES)],
        help='which to measure (default: all)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    parser.add_argument('--do', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        return dict(measure=measure, difference=difference, run=lambda folder,
            n: _run(folder, int(n)))[args.do[0]](*args.do[1:])
    stages, growth = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            if name.startswith('cams-'):
                place, n = Path(folder)/name, int(name[5:])
                call('--do', 'run', place, n)
                peaks = sorted(call('--do', 'measure', name, place, turn)['peak'] for turn in range(ROUNDS))
                growth[n] = found = dict(peak=peaks[ROUNDS // 2], peaks=peaks)
            else: stages[name] = found = dict(call('--do', 'measure', name, folder), work=WORKS[name][1])
            print(f"{name:24} {found['peak'] / 2**20:8,.0f} MiB"
                + (f", a process of the pool {found['of_a_process'] / 2**20:,.0f} MiB" if 'of_a_process' in found
                    else ''), flush=True)
        same = call('--do', 'difference', folder) if {'classify', 'classify, frugal'} <= {*stages} else None
    if same is not None: print(f'largest relative difference of a gradient with frugal: {same:.1e}')
    if args.result:
        from datetime import date
        from consistency_cam.files.checkpoint import write_json
        from consistency_cam.experiments.compare import environment
        write_json(args.result, dict(command='OMP_NUM_THREADS=1 python -m benchmarks.memory', date=str(date.today()),
            stages=stages, growth=growth, gradient_difference=same, **environment()))


if __name__ == '__main__': main()
