"""Pictures a second that `verify` looks at, every one decoded and every mask read, and what it costs of a processor.

    python -m benchmarks.verify VOC2012 [--splits half_train half_val] [--workers 2] [--rounds 3] [--result results/verify.json]

VOC2012 is any data set that `consistency-cam verify` recognises. The scan runs without a record, then with one that is
new, then with the same one, in turn. Wall time depends on what else the machine does; processor time hardly does.
Limit: 200 pictures a second with two processes that have a core each, which is 10 ms of processor time a picture.
"""
import argparse, os, statistics, tempfile, time
from pathlib import Path
from consistency_cam.files.checkpoint import write_json
from consistency_cam.experiments.compare import environment
from consistency_cam.experiments.pipeline import dataset
from consistency_cam.experiments.recipes import change_recipe, recipe
from consistency_cam.datasets.verify import all_splits, recognise, scan, verify

WANTED = 200


def measure_times(work):
    "Seconds of wall time and of processor time, the processes of the pool among them, and the result"
    wall, before = time.perf_counter(), os.times()
    result = work()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4]), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='folder of the data set')
    parser.add_argument('--splits', nargs='+', help='splits to look at (default: all)')
    parser.add_argument('--workers', type=int, default=2, help='processes (default 2)')
    parser.add_argument('--rounds', type=int, default=3, help='times each is measured (default 3)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    args = parser.parse_args()
    found = recipe('quick', **recognise(args.root))
    splits = args.splits or all_splits(found.data.kind, found.data.root)
    sets = {s: dataset(change_recipe(found, train=splits[0]), s) for s in splits}
    jobs = list({(*map(str, s.files(i)), len(s.classes)) if s.has_masks else (str(s.files(i)[0]), None,
        len(s.classes)) for s in sets.values() for i in range(len(s))})
    checked = verify(sets, workers=args.workers, progress=False)
    print(f'{args.root.name}, {", ".join(splits)}: {checked.summary()}')
    times = {'no record': [], 'new record': [], 'known record': []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            for name, record in zip(times, (None, f'{folder}/{turn}.jsonl', f'{folder}/{turn}.jsonl')):
                times[name].append(measure_times(lambda: scan(jobs, record, args.workers, progress=False))[:2])
    figures = {}
    for name, rounds in times.items():
        wall, processor = (statistics.median(t) for t in zip(*rounds))
        figures[name] = dict(pictures_per_second=round(len(jobs) / wall, 1),
            processor_ms_per_picture=round(1000 * processor / len(jobs), 2))
        print(f'{name:13} {len(jobs) / wall:8.0f} pictures/s of wall time, {1000 * processor / len(jobs):6.2f} ms of '
            'processor time a picture')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    could = 1000 * args.workers / figures['no record']['processor_ms_per_picture']
    print(f'{args.workers} processes, {cores} cores, load {os.getloadavg()[0]:.1f}; with a core for each process '
        f'{could:.0f} pictures/s, wanted {WANTED}')
    if args.result:
        write_json(args.result,
            dict(command=f'python -m benchmarks.verify VOC2012 --splits {" ".join(splits)} --workers {args.workers}',
                pictures=len(jobs), workers=args.workers, cores=cores, **figures, **environment()))


if __name__ == '__main__': main()
