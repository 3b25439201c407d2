"""What it costs to keep CAMs at stride 4 in float16: mIoU from the store beside mIoU from full-size float32 maps.

    python -m benchmarks.store RUN [--pictures 200] [--result results/store.json]

RUN is a finished run; its held-out CAMs are inferred again at full size, and both are swept over all thresholds.
"""
import argparse
from pathlib import Path
import torch
from tqdm import tqdm
from consistency_cam.cams import infer
from consistency_cam.files.checkpoint import write_json
from consistency_cam.tools.metrics import ThresholdSweep
from consistency_cam.experiments.compare import environment
from consistency_cam.experiments.pipeline import Run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help='folder of a finished run')
    parser.add_argument('--pictures', type=int, default=200,
        help='held-out pictures to compare on, from the first (default 200)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    args = parser.parse_args()
    run = Run(args.run, progress=False)
    samples, store = run.samples(run.recipe.data.val), run.cams(run.recipe.data.val)
    thresholds = torch.arange(80).double() / 100
    stored, full = (ThresholdSweep(len(samples.classes) + 1, thresholds) for _ in range(2))
    chosen = list(range(min(args.pictures, len(samples))))
    for i, _, cams in tqdm(infer(run.net(), samples, chosen, True, run.recipe.cams.scales, run.recipe.cams.mirror, 1),
        total=len(chosen), desc='full-size CAMs'):
        full.update(cams, samples.mask(i))
        stored.update(store.get(samples.ids[i]), samples.mask(i))
    best = {name: 100 * s.best()[1] for name, s in (('full size, float32', full),
        (f'stride {store.stride}, float16', stored))}
    largest = 100 * (full.miou() - stored.miou()).abs().max().item()
    for name, miou in best.items(): print(f'{name:20} best mIoU {miou:.3f}')
    print(f'{len(chosen)} pictures of {run.recipe.data.val}; largest difference at any of {len(thresholds)} '
        f'thresholds: {largest:.3f} points')
    if args.result:
        write_json(args.result, dict(command=f'python -m benchmarks.store {args.run} --pictures {args.pictures}',
            pictures=len(chosen), best=best, largest_difference=largest, **environment()))


if __name__ == '__main__': main()
