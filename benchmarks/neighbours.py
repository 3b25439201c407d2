"""Busy neighbours: processes that want the cores on which something is measured.

A neighbour is started once and stopped; it goes on only while a work is timed beside it. So each work is timed quiet
and beside the neighbour in turn, and what else the machine does falls on both.
"""
import signal, statistics, subprocess, sys, time
from contextlib import contextmanager
from consistency_cam.files.errors import InputError

NEIGHBOURS = {'a spinning process': "print('ready', flush=True)\nwhile True: pass", 'a training on two threads': """
import torch
torch.set_num_threads(2)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3))
x = torch.randn(8, 3, 96, 96)
print('ready', flush=True)
while True: net(x).sum().backward()
"""}  # {name: what it runs}


@contextmanager
def stopped_neighbour(
    name: str,  # of `NEIGHBOURS`
):
    "A neighbour that has begun and waits; ended afterwards; raises `InputError` where it does not begin"
    process = subprocess.Popen([sys.executable, '-c', NEIGHBOURS[name]], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().strip() != 'ready': raise InputError(f'{name} did not begin; run again with --alone')
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _beside(process, work):
    process.send_signal(signal.SIGCONT)
    try: return _timed(work)
    finally: process.send_signal(signal.SIGSTOP)


def beside_neighbours(
    works: dict,  # {name: function without arguments}
    rounds: int = 3,
) -> dict:  # {name: {neighbour: {'quiet', 'busy': median seconds}}}
    "Each work quiet and beside each neighbour, in turn"
    found = {name: {} for name in works}
    for neighbour in NEIGHBOURS:
        with stopped_neighbour(neighbour) as process:
            times = {name: [(_timed(work), _beside(process, work)) for _ in range(rounds)] for name, work in works.items()}
        for name, pairs in times.items():
            quiet, busy = map(statistics.median, zip(*pairs))
            found[name][neighbour] = dict(quiet=quiet, busy=busy)
    return found


def beside_table(
    records: list,  # of `bench`
) -> str:
    "Markdown: how many times its quiet time each stage takes beside a neighbour, at the largest size; '' where that was not measured"
    rows = [f"| {r['stage']}, {work} | {' | '.join(f'''{t['busy'] / t['quiet']:.2f}''' for t in beside.values())} |"
        for r in records for work, beside in r['steps'][-1].get('beside', {}).items()]
    return '\n'.join([f"| stage | beside {' | beside '.join(NEIGHBOURS)} |", '|---' * (len(NEIGHBOURS) + 1) + '|', *rows]) if rows else ''
