"""What ten corrected masks give: the segmenter before, and trained again with ten true masks in place of pseudo-labels.

    python -m benchmarks.corrections [--seeds 0 1 2] [--runs runs/corrections] [--result results/corrections.json]

Eighty generated scenes and plain CAM without the walk, so that it is quick; the scenes' true masks stand for a person
who paints perfectly. Of each seed's run, copies: the ten most doubtful pictures corrected, ten chosen at random (as
often as --draws says), and all of them, beyond which corrections cannot go. The figures are mIoU in percent on
held-out scenes; three seeds take about half an hour on one thread.
"""
import argparse
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
import numpy as np
from consistency_cam.datasets.folder import WithMasks
from consistency_cam.experiments.compare import environment
from consistency_cam.experiments.doubt import rank_by_doubt
from consistency_cam.experiments.pipeline import Run, run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.files.checkpoint import write_json

SMALL = dict(method='cam', pictures=80, size=96, crop=96, long_side=(84, 108), epochs=5, affinity='none',
    segment_crop=96, segment_long_side=(84, 120), segment_epochs=8, segment_crf=False)
CORRECTED = 10  # pictures


def held_out(run):
    "mIoU of the segmenter on held-out pictures, percent"
    return run.figures('segment')[run.recipe.data.val]['miou']


def right_share(run, ids):
    "Share of the pixels that the pseudo-labels of some pictures have right, percent"
    samples = run.samples('train').subset(ids)
    made = WithMasks(samples, run.folder/'pseudo'/'train')
    right = [(made.mask(i) == samples.mask(i)).float().mean().item() for i in range(len(ids))]
    return round(100 * sum(right) / len(right), 2)


def corrected(first, folder, ids):
    "What the segmenter is worth after these pictures have their true masks, and how right their pseudo-labels were"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(first.folder, folder)
    again, samples = Run(folder, progress=False), first.samples('train')
    for id in ids: again.corrections().keep(id, samples.mask(samples.index(id)))
    again.all_stages()
    return dict(miou=held_out(again), right_before=right_share(first, ids), ids=ids)


def one_seed(seed, folder, draws):
    "All figures of a seed"
    first = run(recipe('quick', seed=seed, **SMALL), folder/f'{seed}', progress=False)
    ids, ranked = first.samples('train').ids, [row['id'] for row in rank_by_doubt(first)]
    chance = np.random.default_rng(seed)
    drawn = [[ids[i] for i in sorted(chance.choice(len(ids), CORRECTED, replace=False))] for _ in range(draws)]
    found = dict(seed=seed, before=held_out(first), right_of_all=right_share(first, ids))
    found['doubtful'] = corrected(first, folder/f'{seed}-doubtful', ranked[:CORRECTED])
    found['random'] = [corrected(first, folder/f'{seed}-random-{n}', chosen) for n, chosen in enumerate(drawn)]
    found['all'] = {k: v for k, v in corrected(first, folder/f'{seed}-all', ids).items() if k != 'ids'}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of the runs (default 0 1 2)')
    parser.add_argument('--draws', type=int, default=2, help='random choices per seed (default 2)')
    parser.add_argument('--runs', type=Path, default=Path('runs/corrections'),
        help='folder for the runs (default runs/corrections)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    args, start, rows = parser.parse_args(), time.perf_counter(), []
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    for seed in args.seeds:
        rows.append(one_seed(seed, args.runs, args.draws))
        row = rows[-1]
        print(f"seed {seed}: before {row['before']}, doubtful {row['doubtful']['miou']}, random "
            f"{[r['miou'] for r in row['random']]}, all {row['all']['miou']}", flush=True)
        if args.result:
            write_json(args.result, dict(command=' '.join(['python -m benchmarks.corrections', *sys.argv[1:]]),
                commit=commit, date=str(date.today()), seconds=round(time.perf_counter() - start),
                recipe=dict(preset='quick', **SMALL), corrected=CORRECTED, rows=rows, **environment()))


if __name__ == '__main__': main()
