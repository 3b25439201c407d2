"""How long an explorer takes to draw again after one of its controls has moved.

    python -m benchmarks.redraw [--folder runs/redraw] [--only cams walk] [--result results/redraw.json]

Three small runs are made on pictures of 500x375 pixels, once (about two minutes). Then every control of every
explorer is moved through a few values, without a browser: the function draws, the panels become HTML. The table has
the median per control.
"""
import argparse
import statistics
import time
from pathlib import Path
import torch
import torch.nn.functional as F
from PIL import Image
from consistency_cam.files.checkpoint import write_json
from consistency_cam.experiments.compare import environment
from consistency_cam.explore import cams, iterated, own_picture, pooling, results, views, walk
from consistency_cam.experiments.pipeline import run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import write_mask
from consistency_cam.datasets.scenes import Scenes
from consistency_cam.tools.show import rgb

SIZE = 375, 500  # (H,W)
SMALL = dict(data='folder', long_side=(112, 144), epochs=2, affinity_epochs=1, train='train', val='val')


def pictures(folder):
    "24 scenes as a folder of pictures of that size, with labels and masks"
    samples = Scenes(24, seed=0, size=192)
    (folder/'pictures').mkdir(parents=True, exist_ok=True)
    (folder/'masks').mkdir(exist_ok=True)
    rows = ['id,labels,split']
    for i, id in enumerate(samples.ids):
        Image.fromarray(rgb(samples.image(i))).resize(SIZE[::-1],
            Image.Resampling.BICUBIC).save(folder/'pictures'/f'{id}.jpg', quality=92)
        write_mask(F.interpolate(samples.mask(i)[None, None], SIZE)[0, 0], folder/'masks'/f'{id}.png')
        names = ';'.join(samples.classes[c - 1] for c in samples.label_ids(i))
        rows.append(f"{id},{names},{'train' if i < 16 else 'val'}")
    (folder/'labels.csv').write_text('\n'.join(rows) + '\n')
    return dict(root=str(folder/'pictures'), labels=str(folder/'labels.csv'), masks=str(folder/'masks'))


def make_runs(folder):
    "The folders of the three runs"
    data = pictures(folder) if not (folder/'labels.csv').exists() else dict(root=str(folder/'pictures'),
        labels=str(folder/'labels.csv'), masks=str(folder/'masks'))
    for method in ('cam', 'puzzle-cam', 'consistency-cam'):
        run(recipe('quick', method=method, **SMALL, **data), folder/method,
            until='affinity' if method == 'consistency-cam' else 'cams')
    return [folder/method for method in ('cam', 'puzzle-cam', 'consistency-cam')]


def values(control, most=6):
    "Values a control is moved through"
    if hasattr(control, 'options'):
        options = [v[1] if isinstance(v, tuple) else v for v in control.options][:most]
        return [(v,) for v in options] if isinstance(control.value, tuple) else options
    if isinstance(control.value, bool): return [not control.value, control.value] * 2
    if not hasattr(control, 'min'): return []
    low, high = control.min, control.max
    return [type(control.value)(low + (high - low) * (k + 1) / (most + 1)) for k in range(most)]


def redraws(explorer, skip=()):
    "{control: median milliseconds of a redraw}"
    found = {}
    for name, control in explorer.controls.items():
        if name in skip: continue
        before, times = control.value, []
        for value in values(control):
            if value == control.value: continue
            start = time.perf_counter()
            control.value = value
            times.append(1000 * (time.perf_counter() - start))
            if explorer.message.value: times.pop()  # a sentence instead of a picture
        control.value = before
        if times: found[name] = round(statistics.median(times), 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, default=Path('runs/redraw'),
        help='folder for pictures and runs (default runs/redraw)')
    parser.add_argument('--only', nargs='+', default=[], help='explorers to time (default: all)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    args = parser.parse_args()
    runs = make_runs(args.folder)
    known = dict(cams=lambda: cams.explore_cams(*runs), views=lambda: views.explore_views(runs[2]),
        pooling=pooling.explore_pooling,
        iterated=lambda: iterated.explore_iterated(iterated.single_label_pictures()),
        walk=lambda: walk.explore_walk(runs[2]), results=lambda: results.explore_results(*runs),
        own_picture=lambda: own_picture.explore_own_picture(runs[2]))
    found = {}
    print(f'median ms of a redraw, pictures of {SIZE[1]}x{SIZE[0]}, {torch.get_num_threads()} threads')
    for name in args.only or known:
        found[name] = redraws(known[name](), skip=('rho', 'k_teacher', 'k_student'))
        print(f'{name}: ' + ', '.join(f'{k} {v:.0f}' for k, v in found[name].items()), flush=True)
    if args.result:
        write_json(args.result, dict(command='python -m benchmarks.redraw', size=SIZE,
            median_ms=found, **environment()))


if __name__ == '__main__': main()
