"""Seconds from `make explore` to a threshold that has been moved, in a browser, as a newcomer's are; quiet, and beside a busy process.

    python -m benchmarks.way_in [--rounds N] [--picture FILE.png] [--result results/way_in.json] [--force]

Runs in a clone with an environment (`make install`) and the runs of `make demo`; the browser comes by `make browser`.
"""
import argparse, multiprocessing, os, shutil, signal, statistics, subprocess, sys, time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from consistency_cam.experiments.compare import environment
from consistency_cam.files.checkpoint import runs_root, write_json
from consistency_cam.files.errors import InputError, runs_in

ROOT = Path(__file__).resolve().parent.parent
FLAGS = '--headless --no-sandbox --disable-gpu --disable-background-networking'.split()
SIZE = dict(width=1280, height=800)  # of the window, pixels
NOT_OURS = 'favicon', 'ResizeObserver', 'Failed to load resource', 'source map'  # what Voilà's own page complains of
HANDLE = '.cc-explorer > .widget-slider .noUi-handle'


@contextmanager
def explorers():
    "The address that `make explore` says; what it started is ended"
    command = ['make', '--silent', 'explore', 'EXPLOREFLAGS=--no-browser']
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next((line.split()[1] for line in server.stdout if line.startswith('explorers: ')), None)
        if not address: raise InputError('`make explore` ended before it said where its page is')
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@contextmanager
def busy(
    processes: int,
):
    "Beside so many processes that compute"
    others = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(processes)]
    for other in others: other.start()
    try: yield
    finally:
        for other in others: other.kill()


def _compute():
    while True: sum(range(10**6))


def walk_in(
    browser,  # of Playwright
    picture: Path|None = None,  # PNG of the explorers before the threshold is moved
) -> dict:  # seconds since the command: 'page' that it said where, 'sliders' drawn, 'moved' with another picture
    "One way in; raises `InputError` where the page complains"
    start, complaints, seconds = time.perf_counter(), [], {}
    def passed(name): seconds[name] = round(time.perf_counter() - start, 2)
    with explorers() as address:
        passed('page')
        page = browser.new_page(viewport=SIZE)
        page.on('console', lambda m: m.type == 'error' and complaints.append(m.text))
        page.on('pageerror', lambda e: complaints.append(str(e)))
        page.goto(address, wait_until='commit')
        page.locator('.cc-panels img').first.wait_for(timeout=120_000)
        passed('sliders')
        if picture: page.wait_for_timeout(500); page.locator('.cc-page').screenshot(path=picture)
        before = page.locator('.cc-picture').first.inner_html()
        handle = page.locator(HANDLE).first
        handle.focus()
        handle.press('End')
        page.wait_for_function('before => document.querySelector(".cc-picture").innerHTML != before', arg=before)
        passed('moved')
        page.close()
    ours = [text for text in complaints if not any(known in text for known in NOT_OURS)]
    if ours: raise InputError(f'the page complains: {ours[0]}')
    return seconds


def measure(
    rounds: int,
    picture: Path|None = None,  # PNG of the first way in
) -> dict:  # {'quiet' or 'beside a busy process': {'rounds': list, 'median': dict}}
    "All ways in, quiet and busy in turn; raises `InputError`"
    from playwright.sync_api import sync_playwright
    found = {'quiet': [], 'beside a busy process': []}
    with sync_playwright() as p:
        program = shutil.which('chromium') or shutil.which('chromium-browser')
        browser = p.chromium.launch(executable_path=program, args=FLAGS)
        for n in range(rounds):
            for processes, (name, times) in enumerate(found.items()):
                with busy(processes): times.append(walk_in(browser, picture if not (n or processes) else None))
                print(f'{name}: {times[-1]}', flush=True)
        browser.close()
    return {name: dict(rounds=times, median={k: statistics.median(t[k] for t in times) for k in times[0]})
        for name, times in found.items()}


def main():
    "The status of the command: 0, or 1 after one line of what is wrong"
    parser = argparse.ArgumentParser('python -m benchmarks.way_in', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3, help='ways in of each kind (default 3)')
    parser.add_argument('--picture', type=Path, help='PNG of the explorers (default: none)')
    parser.add_argument('--result', type=Path, help='JSON file for the figures (default: none)')
    parser.add_argument('--force', action='store_true', help='overwrite that file')
    args = parser.parse_args()
    try:
        if args.result and args.result.exists() and not args.force:
            raise InputError(f'{args.result}: exists already; name another place, or --force to overwrite')
        if not runs_in(runs_root()/'demo'): raise InputError(f'{runs_root()/"demo"}: no runs here; `make demo` makes them')
        found = measure(args.rounds, args.picture)
    except InputError as e:
        print(f'way_in: error: {e}', file=sys.stderr)
        return 1
    about = dict(command=' '.join(['python -m benchmarks.way_in', *sys.argv[1:]]), unit='seconds since `make explore`',
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'), environment=environment())
    if args.result: write_json(args.result, about | found)
    return 0


if __name__ == '__main__': sys.exit(main())
