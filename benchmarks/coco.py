"""What the index of a COCO file costs: seconds and the greatest memory of a process that makes it, on a made file.

    python -m benchmarks.coco [--annotations 100000] [--points 40] [--result results/coco.json]

Limit: 20 s and 2 GiB for 100,000 annotations. The file is made beforehand, by another process.
"""
import argparse, json, os, random, resource, subprocess, sys, tempfile, time
from pathlib import Path

SECONDS, GIB = 20, 2


def write(path, annotations, points):
    "A file like the official ones, seven annotations a picture, written entry by entry"
    from consistency_cam.datasets.coco import CATEGORIES
    numbers, ids = random.Random(0), [*CATEGORIES]
    images = [dict(id=i, file_name=f'COCO_train2014_{i:012d}.jpg', height=480, width=640)
        for i in range(1, annotations // 7 + 2)]
    with open(path, 'w') as f:
        f.write(f'{{"info": {{}}, "images": {json.dumps(images)}, "annotations": [')
        for a in range(annotations):
            outline = [round(480 * numbers.random(), 2) for _ in range(2 * points)]
            f.write((', ' if a else '') + json.dumps(dict(segmentation=[outline], area=900., iscrowd=0,
                image_id=a // 7 + 1, bbox=outline[:4], category_id=numbers.choice(ids), id=a + 1)))
        f.write(f'], "categories": {json.dumps([dict(id=k, name=name) for k, name in CATEGORIES.items()])}}}')


def measure(path):
    from consistency_cam.datasets.coco import read_instances
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    made = read_instances(path)
    seconds, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(dict(annotations=sum(map(len, made.places)), seconds=round(seconds, 2), gib=round(peak / 2**20, 3),
        gib_before=round(before / 2**20, 3))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--annotations', type=int, default=100_000, help='(default 100,000)')
    parser.add_argument('--points', type=int, default=40, help='of an outline (default 40)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    parser.add_argument('--measure', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure: return measure(args.measure)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'instances_train2014.json'
        write(path, args.annotations, args.points)
        size = os.path.getsize(path) / 1e6
        figures = json.loads(subprocess.run([sys.executable, '-m', 'benchmarks.coco', '--measure', path], check=True,
            capture_output=True, text=True).stdout)
    print(f'{figures["annotations"]:,} annotations, {size:.0f} MB: {figures["seconds"]} s (limit {SECONDS}), '
        f'{figures["gib"]} GiB at most, {figures["gib_before"]} before (limit {GIB})')
    if args.result:
        from consistency_cam.files.checkpoint import write_json
        from consistency_cam.experiments.compare import environment
        write_json(args.result,
            dict(command=f'python -m benchmarks.coco --annotations {args.annotations} --points {args.points}',
                megabytes=round(size), **figures, **environment()))


if __name__ == '__main__': main()
