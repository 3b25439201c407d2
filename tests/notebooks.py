"""Runs notebooks and makes the README: `python tests/notebooks.py run [NOTEBOOK...]`, `python tests/notebooks.py readme`."""
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter
from nbdev.clean import clean_nb
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
INDEX = NBS/'index.ipynb'
README = ROOT/'README.md'
WIDGET = 'application/vnd.jupyter.widget-view+json'
HOUSES = ['files', 'datasets', 'fast', 'tools', '.', 'methods', 'experiments', 'report', 'explore', 'cli', 'explorers'] # imports go from the later to the earlier; '.' is the main street


def notebooks():
    "The paths of all notebooks in reading order: the main street, its houses, and the pages"
    paths = [path.relative_to(NBS) for path in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts]
    order = ['.', *(house for house in HOUSES if house != '.')]
    def key(path):
        house = path.parent.as_posix()
        return not path.name[0].isdigit(), order.index(house) if house in order else len(order), path.as_posix()
    return [NBS/path for path in sorted(paths, key=key)]


def directives(cell):
    "The nbdev directives of a cell, `#| eval: false` as 'eval:false'"
    lines = re.findall(r'^\s*#\s*\|(.*)$', cell.source, re.M) if cell.cell_type == 'code' else []
    return {line.replace(' ', '') for line in lines}


class Client(NotebookClient):
    "Runs a notebook in a kernel of its own, without the cells marked `#| eval: false` or `#| notest`"
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if directives(cell) & {'eval:false', 'notest'}: return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def execute(path, timeout=900):
    "The notebook with the outputs of this run; `CellExecutionError` has the cell and its traceback"
    nb = nbformat.read(path, 4)
    Client(nb, timeout=timeout, kernel_name='python3', extra_arguments=['--log-level=ERROR'],
           resources={'metadata': {'path': str(path.parent)}}).execute()
    return nb


def message(error):
    "What went wrong in a notebook, without the colours of the terminal"
    return re.sub(r'\x1b\[[\d;]*m', '', str(error)).strip()


def store(path):
    "Run a notebook and write it back with its outputs, its ids, and no other metadata"
    nb = execute(path)
    clean_nb(nb)
    for output in (output for cell in nb.cells for output in cell.get('outputs', [])):
        kinds = output.get('data', {})
        if 'image/png' in kinds: kinds.pop(WIDGET, None) # there is no such widget on a page without a kernel
        if 'image/jpeg' in kinds: kinds.pop('image/png', None) # Pillow shows a picture in both forms, and this is the smaller one
    nb.metadata.pop('widgets', None) # the state of widgets would hold all their pictures once more
    nbformat.write(nb, path)


def from_root(match):
    "A link of the index, relative to nbs, as the README needs it"
    return '](' + os.path.normpath(os.path.join('nbs', match[1])).replace(os.sep, '/') + ')'


def readme():
    "The README's text and its pictures {path: bytes}, made from the index by nbconvert"
    nb = nbformat.read(INDEX, 4)
    nb.cells = [cell for cell in nb.cells if 'hide' not in directives(cell)]
    for cell in nb.cells:
        if 'echo:false' in directives(cell): cell.metadata['tags'] = ['remove_input']
        if cell.cell_type == 'code': cell.source = re.sub(r'^\s*#\s*\|.*\n?', '', cell.source, flags=re.M)
    nb.metadata['language_info'] = {'name': 'python'} # nbdev's cleaning takes it away, the fences need it
    config = Config({'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': {'remove_input'}}})
    text, resources = MarkdownExporter(config=config).from_notebook_node(nb, {'unique_key': 'readme', 'output_files_dir': 'images'})
    text = re.sub(r'\]\((?![a-z]+:|#|/)([^)\s]+)\)', from_root, text)
    text = re.sub(r'!\[(png|jpeg)\]', '![made by the code above]', re.sub(r'\n([ \t]*\n){2,}', '\n\n', text))
    pictures = {NBS/name: data for name, data in resources['outputs'].items()}
    return '<!-- made from nbs/index.ipynb by `make readme` -->\n' + text.strip() + '\n', pictures


def write_readme():
    text, pictures = readme()
    README.write_text(text, encoding='utf-8')
    for path, data in pictures.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def run(paths):
    "Run and store notebooks one after another, a line each; the first error ends it"
    for i, path in enumerate(paths, 1):
        start = time.time()
        try: store(path)
        except CellExecutionError as error: sys.exit(f'{path.relative_to(ROOT)} fails:\n{message(error)}')
        print(f'{i}/{len(paths)} {path.relative_to(ROOT)}: {time.time() - start:.0f} s, {path.stat().st_size/1e3:.0f} kB', flush=True)


if __name__ == '__main__':
    command, *args = sys.argv[1:] or ['']
    if command == 'run': run([Path(arg).resolve() for arg in args] or notebooks())
    elif command == 'readme': write_readme()
    else: sys.exit(__doc__)
