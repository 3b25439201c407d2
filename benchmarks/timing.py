"""Fair timing: the candidates run in turn, so that whatever else the machine does falls on all of them alike."""
import statistics, time
import torch


def interleaved(
    works: dict,  # {name: function without arguments}
    rounds: int,  # times each is run, after one round to warm up
    device: torch.device,
) -> dict:  # {name: median seconds}
    "Median wall time of each function, measured in turn"
    times = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == 'cuda': torch.cuda.synchronize(device)
            if turn: times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def where(device) -> str:
    "Device, threads and version, for the first line of a benchmark"
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    return f'{name}, {torch.get_num_threads()} threads, float32, torch {torch.__version__}'
