"""Each stage beside the literal way of doing it: results compared, times taken in turn, the work growing in steps.

    python -m benchmarks [STAGE ...] [--device cpu] [--rounds N] [--quick] [--alone] [--result results/bench.json] [--force]

Our own ways are timed a second time beside busy neighbours: a spinning process, a training on two threads.
`make bench` makes results/bench.json, which nbs/benchmarks.ipynb draws.
"""
import argparse, sys
from pathlib import Path
from consistency_cam.files.checkpoint import write_json
from consistency_cam.files.errors import InputError
from benchmarks.measure import bench_all, bench_table
from benchmarks.neighbours import beside_table
from benchmarks import stages  # registers what there is to measure


def fail(error):
    "The status of a command that cannot be done, after one line of why"
    print(f'benchmarks: error: {error}', file=sys.stderr)
    return 1


def main(arguments=None):
    "The status of the command: 0, or 1 after one line of what is wrong"
    parser = argparse.ArgumentParser('python -m benchmarks', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('stages', nargs='*', metavar='STAGE',
        help='pooling, tiles, step, cams, sweep, walk, affinity, crf or pipeline (default: all)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default cpu)')
    parser.add_argument('--rounds', type=int, help="times each work is measured (default: each stage's own)")
    parser.add_argument('--quick', action='store_true', help='one small size, each once, to see that it works')
    parser.add_argument('--alone', action='store_true', help='not beside busy neighbours')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    parser.add_argument('--force', action='store_true', help='overwrite that file')
    args, command = parser.parse_args(arguments), sys.argv[1:] if arguments is None else arguments
    if args.result and args.result.exists() and not args.force:
        return fail(f'{args.result}: exists already; name another place, or --force to overwrite')
    try: found = bench_all(args.stages, args.device, args.rounds, args.quick, lambda line: print(line, flush=True),
        neighbours=args.device == 'cpu' and not (args.alone or args.quick))
    except InputError as e: return fail(e)
    if args.result: write_json(args.result, dict(command=' '.join(['python -m benchmarks', *command]), **found))
    print('\n\n'.join(filter(None, [bench_table(found), beside_table(found['records'])])))
    return 0


if __name__ == '__main__': sys.exit(main())
