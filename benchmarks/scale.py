"""Steps a second with one process and with two, what exchanging gradients takes, and what processor cores do alone.

    python -m benchmarks.scale [--rounds 3] [--steps 40] [--result results/scale.json]

The classifier of the recipe `quick`, the same global batch, in turn: one process of one thread, two processes of one
thread each (torchrun, gloo), one process of two threads (that sleep while they wait: spinning ones come to a standstill
where somebody else works on a core). Then `all_reduce` of as many bytes as its gradients have,
between two processes, and, by the time that a process has on its core, the CRF, the random walk, and decoding and
augmenting a photograph.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

EVERY = 8  # steps between records of the loop's clock
TORCHRUN = 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m'
WAYS = {'one process, one thread': ((), 1, 1), 'two processes, one thread each': (TORCHRUN, 1, 2),
    'one process, two threads': ((), 2, 1)}


def _recipe(steps):
    from consistency_cam.experiments.recipes import recipe
    return recipe('quick', pictures=8 * (steps + EVERY), epochs=1, log_every=EVERY, val='')


def train(folder, steps):
    "The classifier of a run, trained for so many steps and a few before they count"
    from consistency_cam.experiments.pipeline import Run
    Run(folder, _recipe(steps), progress=False).classify()


def rate(folder):
    "Steps a second between the first record that counts and the last"
    log = [json.loads(line) for line in (Path(folder)/'classify'/'metrics.jsonl').read_text().splitlines()]
    first, last = (next(r for r in log if r['step'] == EVERY), log[-1])
    return (last['step'] - first['step']) / (last['seconds'] - first['seconds'])


def exchange(steps):
    "Bytes of the classifier's gradients, and the median seconds in which two processes exchange them"
    import torch, torch.distributed as dist
    from consistency_cam.experiments.pipeline import Run
    with tempfile.TemporaryDirectory() as folder: net = Run(folder, _recipe(steps), progress=False).make_net()
    x, times = torch.zeros(sum(p.numel() for p in net.parameters() if p.requires_grad)), []
    dist.init_process_group('gloo')
    for _ in range(5 + steps):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(x)
        times.append(time.perf_counter() - begun)
    if dist.get_rank() == 0: print(json.dumps(dict(bytes=4 * x.numel(), seconds=statistics.median(times[5:]))))
    dist.destroy_process_group()


def per_second(work, n):
    "How often a second of the process's own time a work is done, over n times after one that does not count"
    work(0)
    begun = time.process_time()
    for i in range(n): work(i)
    return round(n / (time.process_time() - begun), 2)


def core(folder, n=8):
    "Pictures a second of one core, 375x500 pixels, three classes and background"
    import torch
    from PIL import Image
    from torch.nn.functional import interpolate
    from consistency_cam.crf import LABEL_CRF, dense_crf
    from consistency_cam.randomwalk import random_walk
    from consistency_cam.datasets.samples import Sample, read_image
    from consistency_cam.datasets.scenes import Scenes
    from consistency_cam.tools.transforms import Augment, seeded_generator
    torch.set_num_threads(1)
    torch.manual_seed(0)
    scenes, augment, path = Scenes(n, size=500), Augment(512, (320, 640)), Path(folder)/'photograph.jpg'
    images = [scenes.image(i)[:, 62:437].contiguous() for i in range(n)]
    probs = [(3 * interpolate(torch.randn(1, 4, 12, 16), (375, 500), mode='bilinear')[0]).softmax(0) for _ in range(n)]
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(path, quality=90)
    print(json.dumps({
        'CRF': per_second(lambda i: dense_crf(images[i], probs[i], LABEL_CRF), n),
        'random walk': per_second(lambda i: random_walk(probs[i][1:, ::4, ::4], torch.rand(94, 125)), n),
        'decoding and augmenting': per_second(lambda i: augment(Sample('photograph', read_image(path), torch.zeros(20)),
            seeded_generator(0, i)), 8 * n)}))


def call(launcher, threads, *arguments):
    "What another process of this program prints, from JSON"
    done = subprocess.run([sys.executable, '-m', *launcher, 'benchmarks.scale', '--do', *map(str, arguments)],
        capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY='PASSIVE'))
    if done.returncode: sys.exit(done.stderr)
    return json.loads(done.stdout or 'null')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3, help='times each is measured (default 3)')
    parser.add_argument('--steps', type=int, default=40, help='that count (default 40)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    parser.add_argument('--do', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        return dict(train=lambda folder, n: train(folder, int(n)), exchange=lambda n: exchange(int(n)),
            core=core)[args.do[0]](*args.do[1:])
    rates, loads = {way: [] for way in WAYS}, []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(args.rounds):
            for way, (launcher, threads, _) in WAYS.items():
                folder = Path(place)/f'{turn} {way}'
                loads.append(os.getloadavg()[0])
                call(launcher, threads, 'train', folder, args.steps)
                rates[way].append(round(rate(folder), 3))
                print(f'{turn + 1}/{args.rounds} {way:32} {rates[way][-1]:.2f} steps/s', flush=True)
        exchanged, cores = call(TORCHRUN, 1, 'exchange', args.steps), call((), 1, 'core', place)
    median = {way: statistics.median(r) for way, r in rates.items()}
    share = exchanged['seconds'] * median['two processes, one thread each']
    for way, r in median.items():
        print(f"{way:32} {r:.2f} steps/s, {r / median['one process, one thread']:.2f} times one thread's")
    print(f"exchanging {exchanged['bytes'] / 1e6:.1f} MB of gradients: {1e3 * exchanged['seconds']:.1f} ms, "
        f"{share:.1%} of a step; load of the machine as the trainings began {min(loads):.1f} to {max(loads):.1f}")
    for name, r in cores.items(): print(f'{name:32} {r:.2f} pictures/s on one core')
    if args.result:
        from datetime import date
        from consistency_cam.files.checkpoint import write_json
        from consistency_cam.experiments.compare import environment
        write_json(args.result, dict(command=f'python -m benchmarks.scale --rounds {args.rounds} --steps {args.steps}',
            date=str(date.today()), rates=rates, median=median, exchange=dict(exchanged, share_of_step=round(share, 4)),
            pictures_per_second_of_a_core=cores, load=dict(least=round(min(loads), 2), most=round(max(loads), 2)),
            cores=os.cpu_count(), **environment()))


if __name__ == '__main__': main()
