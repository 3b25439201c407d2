"""Two ways of computing the same, on the same inputs: results compared, times taken in turn, work growing in steps.

A time by itself says little: it is that of one machine on one day. So nothing here is timed alone. A stage runs
beside the literal way of doing it, on the same inputs; first the two results are compared, then the two are timed in
turn, and what counts is the ratio of the medians.

A benchmark is a function that makes inputs of a given size and returns the works to be timed on them; sizes that
grow; what the ratio ought to be at the largest; how far the results may lie apart. Where the literal way is too slow
for the largest size, it is left out there, and its time follows from the size before by the number of its operations.
"""
import statistics, time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import NamedTuple
import torch
from consistency_cam.datasets.samples import InputError
from consistency_cam.experiments.compare import environment
from consistency_cam.files.errors import unknown
from benchmarks.neighbours import beside_neighbours

def interleaved(
    works: dict,  # {name: function without arguments}
    rounds: int,  # times each is measured
    device: torch.device,
    warm: int = 1,  # rounds before the first that counts
) -> dict:  # {name: median seconds}
    "Median wall time of each function, measured in turn"
    times = {name: [] for name in works}
    for turn in range(-warm, rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == 'cuda': torch.cuda.synchronize(device)
            if turn >= 0: times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}

def where(
    device: torch.device,
) -> str:
    "Device, threads and version, for the first line of a benchmark"
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    return f'{name}, {torch.get_num_threads()} threads, float32, torch {torch.__version__}'

class BenchError(InputError): "A benchmark that does not exist, or whose two ways do not give the same"

class Problem(NamedTuple):
    "What is timed at one size"
    works: dict  # {name: function without arguments that returns a tensor, or several}
    truth: callable = None  # returns what they are compared with; None: the first work

class Goal(NamedTuple):
    "Two works whose times are set in proportion, at the largest size"
    work: str
    against: str
    wanted: float = None  # how many times as fast as the other it should be; None: that is told only
    gpu: float = None  # the same on a GPU, where that is another
    most: bool = False  # `wanted` is instead how many times the other's time it may take

def max_difference(difference, found, truth):
    "The largest difference of one tensor, or of several"
    pairs = [(found, truth)] if torch.is_tensor(found) else zip(found, truth, strict=True)
    return max(difference(a.cpu(), b.cpu()) for a, b in pairs)

def relative(a, b):
    "Largest difference, as a share of the largest value"
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()

def share(a, b):
    "Share of the entries that differ"
    return (a != b).double().mean().item()

BENCHMARKS = {}

@dataclass(frozen=True)
class Benchmark:
    "A stage and its literal twin"
    name: str
    title: str  # what is measured
    make: callable  # (device, **size) -> Problem
    sizes: list  # of dicts, growing
    quick: dict  # a size for tests
    goals: list  # of `Goal`
    tolerance: dict  # {name of a work: how far its result may be from the truth}
    difference: callable = relative  # (result, truth) -> float
    rounds: int = 5
    gpu_sizes: list = None  # sizes for a GPU, where these are others
    operations: callable = None  # of the literal way at a size, for the sizes it is too slow for
    precision: dict = field(default_factory=dict)  # {name of a work: where not float32}

def benchmark(name, title, **about):
    "Decorator: adds the function that makes the problem to `BENCHMARKS`"
    def add(make):
        BENCHMARKS[name] = Benchmark(name, title, make, **about)
        return make
    return add

def _measure(b, size, device, rounds, before, neighbours=False):
    "One size: {size, seconds, difference, extrapolated, and beside neighbours where asked}; raises `BenchError`"
    problem, found, results, seconds = b.make(device, **size), {}, {}, {}
    # the round that warms up; without another one it is also the one that counts
    for name, work in problem.works.items():
        start = time.perf_counter()
        results[name], seconds[name] = work(), time.perf_counter() - start
    truth = results[next(iter(results))] if problem.truth is None else problem.truth()
    for name, most in b.tolerance.items():
        found[name] = max_difference(b.difference, results[name], truth)
        if not found[name] <= most:
            raise BenchError(f"{b.name}, {size_text(size)}: '{name}' is {found[name]:.2g} away from the result wanted, more than {most:g}; nothing was timed")
    del results, truth
    if rounds: seconds = interleaved(problem.works, rounds, device, warm=0)
    missing = []
    for goal in b.goals:
        if goal.against in seconds or not before: continue
        seconds[goal.against] = before['seconds'][goal.against] * b.operations(**size) / b.operations(**before['size'])
        missing.append(goal.against)
    ours = {g.work: problem.works[g.work] for g in b.goals if g.work in problem.works}
    beside = dict(beside=beside_neighbours(ours)) if neighbours else {}
    return dict(size=size, seconds=seconds, difference=found, extrapolated=missing, **beside)

def size_text(
    size: dict,
) -> str:
    "A size in words"
    return ', '.join(f"{k} {'x'.join(map(str, v)) if isinstance(v, (tuple, list)) else v}" for k, v in size.items())

def _check_stage(name):
    if name not in BENCHMARKS: raise BenchError(unknown('stage', name, [*BENCHMARKS]))

def _judge(goal, step, on_gpu, final):
    "The goal with its ratio at a size, and whether it is reached where this is the size it is set for"
    work, against = (step['seconds'][k] for k in (goal.work, goal.against))
    ratio, wanted = work / against if goal.most else against / work, goal.gpu if on_gpu and goal.gpu else goal.wanted
    reached = (ratio <= wanted if goal.most else ratio >= wanted) if final and wanted else None
    return dict(work=goal.work, against=goal.against, ratio=ratio, wanted=wanted, most=goal.most, reached=reached)

def bench(
    name: str,  # of `BENCHMARKS`
    device: str = 'cpu',  # 'cpu' or 'cuda'
    rounds: int|None = None,  # times each work is measured; None: as many as the benchmark says
    quick: bool = False,  # one small size, and the calls that are compared are those timed: for tests, not for figures
    progress=None,  # called with a line for each size that is done
    neighbours: bool = False,  # time our own ways at the largest size beside busy neighbours, too
) -> dict:  # stage, title, device, threads, precision, torch, rounds, steps: for each size seconds, difference, goals
    "Measure a stage at growing sizes; raises `BenchError` where the two ways do not give the same"
    _check_stage(name)
    if device not in ('cpu', 'cuda') or device == 'cuda' and not torch.cuda.is_available():
        raise BenchError(f"device '{device}' is not here; known are cpu, and cuda where there is a GPU")
    if rounds is not None and rounds < 1: raise BenchError(f'{rounds} rounds measure nothing; take 1 or more')
    b, device, steps = BENCHMARKS[name], torch.device(device), []
    gpu = device.type == 'cuda'
    sizes, rounds = [b.quick] if quick else gpu and b.gpu_sizes or b.sizes, rounds or (0 if quick else b.rounds)
    for size in sizes:
        step = _measure(b, size, device, rounds, steps[-1] if steps else None, neighbours and size is sizes[-1])
        steps.append(step | dict(goals=[_judge(g, step, gpu, size is sizes[-1] and not quick) for g in b.goals]))
        if progress: progress(line(name, steps[-1]))
    precision = {w: b.precision.get(w, 'float32') for w in steps[-1]['seconds']}
    return dict(stage=name, title=b.title, device=torch.cuda.get_device_name() if gpu else 'CPU',
        threads=torch.get_num_threads(), precision=precision, torch=torch.__version__, rounds=rounds, steps=steps)

def duration(
    seconds: float,
) -> str:
    "Seconds with a fitting unit"
    if seconds >= 120: return f'{seconds / 60:.1f} min'
    return f'{seconds:.3g} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'

def factor(
    goal: dict,  # as in a record
) -> str:
    "A ratio in words"
    x = f"{goal['ratio']:,.0f}" if goal['ratio'] >= 100 else f"{goal['ratio']:.2f}"
    return f"{x} x the time of {goal['against']}" if goal['most'] else f"{x} x as fast as {goal['against']}"

def line(name, step):
    "What one size gave"
    times = ', '.join(f"{k} {duration(v)}{'*' if k in step['extrapolated'] else ''}"
        for k, v in step['seconds'].items())
    goals = '; '.join(f"{g['work']}: {factor(g)}" for g in step['goals'])
    return f"{name:9} {size_text(step['size']):32} {times}; {goals}"

def bench_all(
    names: list = (),  # of stages; empty: all
    device: str = 'cpu',  # 'cpu' or 'cuda'
    rounds: int|None = None,  # times each work is measured; None: as many as each benchmark says
    quick: bool = False,  # one small size, one call each
    progress=None,  # called with a line for each size that is done
    neighbours: bool = False,  # beside busy neighbours, too
) -> dict:  # date, versions, device, records
    "Measure stages one after the other; raises `BenchError`"
    for name in names: _check_stage(name)
    start = time.perf_counter()
    records = [bench(name, device, rounds, quick, progress, neighbours) for name in names or BENCHMARKS]
    return dict(date=datetime.now(timezone.utc).date().isoformat(), **environment(),
        seconds=round(time.perf_counter() - start, 1), records=records)

def _difference_text(step, goal):
    return f"{step['difference'][goal['work']]:.1g}" if goal['work'] in step['difference'] else '–'

def bench_table(
    found: dict,  # as `bench_all` returns it
) -> str:
    "Markdown: a row for each ratio at the largest size"
    rows = ['| stage | at | times | ratio | wanted | apart |', '|---|---|---|---|---|---|']
    for r in found['records']:
        last = r['steps'][-1]
        for g in last['goals']:
            time = lambda k: f"{k} {duration(last['seconds'][k])}{'*' if k in last['extrapolated'] else ''}"
            wanted = '–' if g['wanted'] is None else f"at {'most' if g['most'] else 'least'} {g['wanted']:,g}" + {
                True: ', reached', False: ', **missed**', None: ''}[g['reached']]
            rows.append(f"| {r['stage']} | {size_text(last['size'])} | {time(g['work'])}, {time(g['against'])} | "
                f"{factor(g)} | {wanted} | {_difference_text(last, g)} |")
    return '\n'.join(rows)
