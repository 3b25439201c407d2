"""Do the scenes contain what they are made for? Three questions, answered by training.

    python -m benchmarks.scenes [--seeds 0 1 2] [--runs runs/scenes] [--result results/scenes.json]

1. Plain CAM finds the telling part and misses the body: its recall on the rest of the body, beside the part's.
2. The masks can be learned: mIoU of the same backbone trained on the true masks, on held-out scenes.
3. The methods differ by more than the spread over seeds: CAM mIoU of each.

The recipe is `quick` with eight passes over the scenes; for the second question, with more scenes and a longer
training.
"""
import argparse
import sys
from pathlib import Path
import torch
from consistency_cam.files.checkpoint import write_json
from consistency_cam.experiments.compare import compare, table
from consistency_cam.tools.metrics import cam_mask
from consistency_cam.experiments.pipeline import Run, run
from consistency_cam.experiments.recipes import change_recipe, recipe

# of the second question
TRUE_MASKS = dict(segment_on='masks', pictures=1600, segment_norm='group', segment_epochs=10,
    segment_batch_size=16, segment_crf=False)


THRESHOLDS = .02, .05, .1, .15, .2, .25, .3, .4, .5

def recalls(run):
    "Recall in percent of the right class on telling parts, on the rest of the bodies, and of background, by threshold"
    samples, store = run.samples(run.recipe.data.train), run.cams(run.recipe.data.train)
    hits, pixels = torch.zeros(len(THRESHOLDS), 3), torch.zeros(3)
    for i, id in enumerate(samples.ids):
        part, mask, cams = samples.part(i).long(), samples.mask(i).long(), store.get(id)
        pixels += part.flatten().bincount(minlength=3)
        for t, threshold in enumerate(THRESHOLDS):
            hits[t] += part[cam_mask(cams, threshold, mask.shape) == mask].bincount(minlength=3)
    background, body, telling = [[round(v, 1) for v in (100 * hits[:, k] / pixels[k]).tolist()] for k in range(3)]
    return dict(thresholds=THRESHOLDS, part=telling, body=body, background=background)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of each method (default 0 1 2)')
    parser.add_argument('--methods', nargs='+', default=['cam', 'puzzle-cam', 'consistency-cam'],
        help='methods (default cam puzzle-cam consistency-cam)')
    parser.add_argument('--runs', type=Path, default=Path('runs/scenes'),
        help='folder for the runs (default runs/scenes)')
    parser.add_argument('--result', type=Path, default=Path('results/scenes.json'),
        help='file for the figures (default results/scenes.json)')
    args = parser.parse_args()
    r = recipe('quick', epochs=8)
    found = compare(r, args.runs, args.methods, args.seeds,
        command='python -m benchmarks.scenes ' + ' '.join(sys.argv[1:]))
    for row in found['rows']: row['recall'] = recalls(Run(args.runs/f"{row['method']}-{row['seed']}", progress=False))
    found['supervised'] = TRUE_MASKS | run(change_recipe(r, **TRUE_MASKS),
        args.runs/'true-masks').figures('segment')[r.data.val]
    write_json(args.result, found)
    print(table(found))
    at = THRESHOLDS.index(.2)
    for row in found['rows']:
        print(row['title'], row['seed'], {k: row['recall'][k][at] for k in ('part', 'body', 'background')})
    print('true masks:', found['supervised'])


if __name__ == '__main__': main()
