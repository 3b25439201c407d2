"""The compared methods under one protocol: the figures, the costs and the pictures of nbs/tutorials/methods_compared.

    python -m benchmarks.methods [--root VOC2012] [--methods cam seam]

1. Generated scenes, recipe `quick`, three seeds: CAM mIoU of each method.
2. Half of VOC with `--root`, recipe `voc-quick`, one seed: the same on photographs.
3. What a training step and the maps of a picture cost, in turn, on one thread.
4. Maps of the same scenes under every method: the held-out scenes whose IoU by plain CAM is lowest, highest, and
   between them, of those with one class.

Runs are made in RUNS/scenes and RUNS/voc, end with the CAMs, and a finished one is not done again.
"""
import argparse
import sys
from pathlib import Path
import torch
from consistency_cam.files.checkpoint import write_json
from consistency_cam.experiments.compare import compare, cost_table, measured_costs, table
from consistency_cam.experiments.pipeline import Run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.tools.metrics import ConfusionMatrix, cam_mask
from consistency_cam.tools.show import grid, overlay, to_png

METHODS = 'cam', 'puzzle-cam', 'consistency-cam', 'seam', 'sc-cam', 'icd', 'seenet', 'ficklenet', 'mcis'
SHOWN = 5  # scenes


def shown_scenes(run):
    "Scenes with one class, from the lowest IoU of the run's maps, at its best threshold, to the highest, evenly by rank"
    samples, store = run.samples('val'), run.cams('val')
    threshold = run.evaluate()['train']['best_threshold']
    def iou(i):
        matrix = ConfusionMatrix(len(samples.classes) + 1)
        matrix.update(cam_mask(store.get(samples.ids[i]), threshold, samples.mask(i).shape), samples.mask(i))
        return matrix.iou()[samples.label_ids(i)[0]].item()
    ranked = sorted((i for i in range(len(samples)) if len(samples.label_ids(i)) == 1), key=iou)
    return [ranked[round(k * (len(ranked) - 1) / (SHOWN - 1))] for k in range(SHOWN)]


def picture(runs):
    "The scenes under every run, one row a scene"
    samples = runs[0].samples('val')
    def row(i):
        id, c = samples.ids[i], samples.label_ids(i)[0]
        return [samples.image(i)] + [overlay(samples.image(i), run.cams('val').get(id)[c]) for run in runs]
    chosen = shown_scenes(runs[0])
    return grid([row(i) for i in chosen], ['scene'] + [run.title for run in runs],
        [samples.classes[samples.label_ids(i)[0] - 1] for i in chosen], size=1.)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--root', help='folder of VOC 2012 (default: scenes only)')
    parser.add_argument('--methods', nargs='+', default=METHODS, help=f"methods (default {' '.join(METHODS)})")
    parser.add_argument('--voc-methods', nargs='+', help='methods on photographs (default: the same)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds on scenes (default 0 1 2)')
    parser.add_argument('--runs', type=Path, default=Path('runs/methods'), help='folder for the runs (default runs/methods)')
    parser.add_argument('--result', type=Path, default=Path('results/methods.json'),
        help='file for the figures (default results/methods.json)')
    parser.add_argument('--picture', type=Path, default=Path('nbs/images/methods_scenes.png'),
        help='file for the maps (default nbs/images/methods_scenes.png)')
    args = parser.parse_args()
    command = ' '.join(['python -m benchmarks.methods', *(Path(a).name if a.startswith('/') else a for a in sys.argv[1:])])
    found = dict(scenes=compare(recipe('quick'), args.runs/'scenes', args.methods, args.seeds, command=command))
    if args.root:
        found['voc'] = compare(recipe('voc-quick', root=args.root), args.runs/'voc', args.voc_methods or args.methods, (0,),
            command=command)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = [Run(args.runs/'scenes'/f'{m}-{args.seeds[0]}', progress=False) for m in args.methods]
    found['costs'] = measured_costs(runs)
    torch.set_num_threads(threads)
    write_json(args.result, found)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    args.picture.write_bytes(to_png(picture(runs)))
    for name in ('scenes', 'voc'):
        if name in found: print(f'{name}\n{table(found[name])}\n')
    print(cost_table(found['costs']))


if __name__ == '__main__': main()
