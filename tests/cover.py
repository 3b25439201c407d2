"""Which lines of the package the notebooks and quick tests run: `python tests/cover.py [--figures FILE] [NOTEBOOK...]`.

A notebook tests the cells that it holds, not the module made from them. So each runs in a copy whose exported cells are
replaced by one thing, an import of every name of its module. Then the quick tests run, unless notebooks are named.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import coverage
import nbformat

from notebooks import ROOT, Client, directives, notebooks

FIRST = '''import coverage
_measured = coverage.Coverage(data_file={data!r}, data_suffix=True, source={source!r}, messages=False)
_measured.start()
'''
LAST = '_measured.stop(); _measured.save()'
EVERY_NAME = '''import importlib
globals().update({{name: value for name, value in vars(importlib.import_module('consistency_cam.{module}')).items() if not name.startswith('__')}})
__name__ = "consistency_cam.{module}"'''


def measured(nb, data):
    "The notebook with its exported cells taken from the package, and coverage around all"
    exported = lambda cell: any(d.split(':')[0] in ('export', 'exporti', 'exports') for d in directives(cell))
    module = next((line.split()[-1] for cell in nb.cells if cell.cell_type == 'code' for line in cell.source.splitlines() if line.startswith('#| default_exp')), None)
    held = [cell for cell in nb.cells if cell.cell_type == 'code']
    for cell in held:
        if exported(cell): cell.source = ''
    if module: next(cell for cell in held if 'default_exp' in cell.source).source = EVERY_NAME.format(module=module)
    nb.cells = [nbformat.v4.new_code_cell(FIRST.format(data=str(data), source=[str(ROOT/'consistency_cam')])), *held, nbformat.v4.new_code_cell(LAST)]
    return nb


def run_notebook(path, data):
    "Runs it to its end; what went wrong in cells, such as those that replace a name of their own notebook, which the package does not see"
    nb = measured(nbformat.read(path, 4), data)
    Client(nb, timeout=1200, kernel_name='python3', allow_errors=True, extra_arguments=['--log-level=ERROR'], resources={'metadata': {'path': str(path.parent)}}).execute()
    return [f"{out.ename}: {out.evalue.strip().splitlines()[0] if out.evalue.strip() else ''} at `{cell.source.strip().splitlines()[0]}`" for cell in nb.cells for out in cell.get('outputs', []) if out.output_type == 'error']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', type=Path, help='notebooks to run (default: all, and the quick tests)')
    parser.add_argument('--figures', type=Path, help='JSON file to which the figure is added (default: it is printed)')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    with TemporaryDirectory() as folder:
        data, paths = Path(folder)/'coverage', [path.resolve() for path in args.notebooks] or notebooks()
        os.environ['CONSISTENCY_CAM_RUNS'] = os.path.join(folder, 'runs')
        with ThreadPoolExecutor(2) as pool:
            for n, (path, failed) in enumerate(zip(paths, pool.map(lambda path: run_notebook(path, data), paths)), 1):
                print(f'{n}/{len(paths)} {path.relative_to(ROOT)}' + ''.join(f'\n    {line}' for line in failed), flush=True)
        if not args.notebooks: test(data)
        found = coverage.Coverage(data_file=str(data), messages=False)
        found.combine([str(p) for p in Path(folder).glob('coverage.*')])
        total = found.report(omit=['*/_modidx.py', '*/__main__.py'], show_missing=bool(args.notebooks))
    said = f'{total:.1f} % of the lines of the package'
    print(f'coverage: {said}')
    if args.figures: args.figures.write_text(json.dumps((json.loads(args.figures.read_text()) if args.figures.exists() else {}) | dict(coverage=said), indent=1) + '\n')
    return int(total < 90)


def test(data):
    "The quick tests without the notebooks, measured too"
    # A tracer does not bear interrupts at any moment.
    command = f'-m coverage run --data-file={data}.tests --source={ROOT/"consistency_cam"} -m pytest {ROOT/"tests"} -q -m'.split() + ['not slow', f'--ignore={ROOT/"tests"/"test_notebooks.py"}', '-k', 'not interrupt']
    if subprocess.run([sys.executable, *command], cwd=ROOT).returncode: sys.exit('a test fails')


if __name__ == '__main__': sys.exit(main())
