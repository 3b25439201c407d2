"""Builds the site of the documentation from the notebooks: `python docs/pages.py [FOLDER]`, by default into `_docs`.

A page for each notebook as it is stored, its prose by nbconvert; a page for each module from its docments; one style
sheet. No page runs or loads anything: formulas are MathML, outputs stand in the pages, and explorers are the still
pictures beside their widgets."""
import ast
import re
import shutil
import sys
from functools import cache
from html import escape
from pathlib import Path
from posixpath import join, relpath

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT/'tests')]
from notebooks import HOUSES, NBS, directives, notebooks  # noqa: E402

from consistency_cam import __version__  # noqa: E402
from consistency_cam._docments import signatures  # noqa: E402

PACKAGE = ROOT/'consistency_cam'
STILL = ['image/svg+xml', 'image/png', 'text/html', 'text/markdown', 'image/jpeg', 'text/latex', 'text/plain']


# Names and places

def page_of(path): return path.relative_to(NBS).with_suffix('.html').as_posix()


@cache
def sources(path): return nbformat.read(path, 4)


def title(path):
    "A notebook's first heading"
    heading = re.search(r'^# (.+)$', sources(path).cells[0].source, re.M)
    return heading[1] if heading else path.stem


@cache
def houses():
    "{title of a house: its notebooks in reading order}, the main street first"
    found, names = {'': []}, {}
    for path in notebooks():
        folder = path.parent.relative_to(NBS).as_posix()
        if folder == '.': house = '' if path.name[0].isdigit() or path.stem == 'index' else 'more'
        else: house = folder
        if house == folder and path.stem == 'index': names[house] = title(path)
        found.setdefault(house, []).append(path)
    others = [h for h in found if h not in HOUSES and h not in ('', 'more')]
    order = ['', *(h for h in HOUSES if h in found), *others, 'more']
    names |= {'': 'Main street', 'more': 'Command and measurements'}
    first = lambda path: (path.stem != 'index', path.name)
    return {names.get(h, h.capitalize()): sorted(found[h], key=first) for h in order if h in found}


@cache
def reading_order(): return [path for paths in houses().values() for path in paths]


@cache
def modules():
    "{module of the package: its path}"
    parts = {path: path.relative_to(PACKAGE).with_suffix('').parts for path in sorted(PACKAGE.rglob('*.py'))}
    return {'.'.join(p): path for path, p in parts.items() if not p[-1].startswith('_')}


@cache
def exported():
    "{name: module} of what modules export; names of two modules are left out"
    found, twice = {}, set()
    for module, path in modules().items():
        for name in names_of(path):
            if name in found: twice.add(name)
            found[name] = module
    return {name: module for name, module in found.items() if name not in twice}


def names_of(path):
    "The names in a module's `__all__` that it defines itself"
    tree = ast.parse(path.read_text(encoding='utf-8'))
    own = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    own |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__']
    return [name for name in (ast.literal_eval(lists[0]) if lists else []) if name in own]


# Prose and formulas

class Prose(IPythonRenderer):
    "Markdown with formulas in MathML, links to pages, and names of the package linked to theirs"
    def __init__(self, page, folder=NBS, files=None):
        super().__init__(escape=False, anchor_link_text='#')
        self.page, self.folder, self.files = page, folder, files if files is not None else set()

    def block_math(self, text): return f'<div class="formula">{convert(text.strip(), display="block")}</div>'
    def inline_math(self, text): return convert(text.strip())

    def codespan(self, text):
        name, code = text.rstrip('()'), super().codespan(text)
        if name not in exported() or name.islower() and '_' not in name: return code  # `run` may be a command, too
        return f'<a class="name" href="{relative(api_page(exported()[name]), self.page)}#{name}">{code}</a>'

    def link(self, text, url, title=None):
        text = re.sub(r'<a class="name"[^>]*>(.*?)</a>', r'\1', text)  # no link in a link
        return super().link(text, self.place(url), title)

    def image(self, text, url, title=None): return super().image(text, self.place(url), title)

    def place(self, url):
        "Where a link leads: to a notebook's page, or to a copy of another file of the project"
        address, anchor = re.match(r'([^#]*)(#.*)?$', url).groups(default='')
        if not address or re.match(r'[a-z]+:', address): return url
        target = (self.folder/address).resolve()
        if target.suffix == '.ipynb': return relative(page_of(target), self.page) + anchor
        self.files.add(name := target.relative_to(ROOT).as_posix())
        return relative(f'project/{name}', self.page) + anchor


# Pages of notebooks

IMPORTS = ast.Import, ast.ImportFrom
COLOURS = HtmlFormatter(style='default')


def only_imports(source):
    "Whether code does nothing but import, and say what becomes of the imported names"
    try: body = ast.parse(source).body
    except SyntaxError: return False  # a magic of IPython
    known = '__getattr__ =', '_all_ ='
    return bool(body) and all(isinstance(n, IMPORTS) or ast.unparse(n).startswith(known) for n in body)


def code_html(source, folds=True):
    "Code in colours; imports unfold when one asks for them"
    text = highlight(source, PythonLexer(), COLOURS)
    if not (folds and only_imports(source)): return text
    return f'<details class="imports"><summary>imports</summary>{text}</details>'


MOVES = 'A still picture: the sliders move in <code>make explore</code>, and in this notebook, which <code>make lab</code> opens.'


def output_html(output, writer):
    "What a cell gave: the first of its forms that needs nothing to be shown"
    data = output.get('data') or {'text/plain': output.get('text', '')}
    kind = next((k for k in STILL if k in data), None)
    if kind is None: return ''
    if kind in ('image/png', 'image/jpeg'):
        picture = f'<img alt="made by the code above" src="data:{kind};base64,{data[kind].strip()}">'
        if not data.get('text/plain', '').startswith('Explorer('): return picture
        return f'<div class="panels">{picture}</div>{paragraph(MOVES, "still")}'
    if kind == 'text/markdown': return prose(data[kind], writer)
    if kind in ('image/svg+xml', 'text/html'): return data[kind]
    return f'<pre>{escape(strip_ansi(data[kind]), quote=False)}</pre>'


def notebook_page(path):
    "The body of a notebook's page, and the files of the project that it links to"
    page, parts = page_of(path), []
    writer = Prose(page, path.parent)
    for cell in sources(path).cells:
        about = directives(cell)
        if 'hide' in about or any(d.startswith('default_exp') for d in about): continue
        if cell.cell_type == 'markdown':
            parts.append(prose(cell.source, writer))
            continue
        source = re.sub(r'^\s*#\s*\|.*\n?', '', cell.source, flags=re.M)
        # the first page's lines are there to be copied, imports among them
        if source.strip() and 'echo:false' not in about: parts.append(code_html(source, page != 'index.html'))
        outputs = ''.join(output_html(o, writer) for o in cell.outputs)
        parts.append(f'<div class="output">{outputs}</div>' * bool(outputs))
    return '\n'.join(parts), writer.files


def prose(text, writer): return MarkdownWithMath(renderer=writer).render(text)


def api_page(module): return f'api/{module}.html'


def relative(target, page): return relpath(target, join(page, '..'))


# Elements

def link(target, page, text, **attributes):
    "A link from a page to another"
    more = ''.join(f' {k.replace("_", "-")}="{v}"' for k, v in attributes.items() if v)
    return f'<a href="{relative(target, page)}"{more}>{text}</a>'


def table(rows, kind=''):
    "A table of rows of cells; nothing where there are no rows"
    lines = [f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows]
    return f'<table class="{kind}">{"".join(lines)}</table>' if lines else ''


def code(text): return f'<code>{escape(text, quote=False)}</code>'


def paragraph(text, kind=''): return f'<p class="{kind}">{text}</p>' if text else ''


def words(text):
    "A line of a docstring or a comment, its code marked"
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', escape(text or '', quote=False))


# Pages of modules

NOTHING = {}, ''  # said of parameters and result


def signature(node):
    "The parameters of a function with their defaults, and the kind of what it returns"
    args = ast.parse(f'def f({ast.unparse(node.args)}): pass').body[0].args
    for kind in (args.posonlyargs, args.args): kind[:] = [a for a in kind if a.arg not in ('self', 'cls')]
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    for a in filter(None, every): a.annotation = None
    return f'({ast.unparse(args)})' + (f' -> {ast.unparse(node.returns)}' if node.returns else '')


def parameters(node, comments):
    "A table of the parameters that have a comment or a kind"
    a, rows = node.args, []
    for arg in filter(None, [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]):
        if arg.arg in ('self', 'cls') or not (arg.annotation or arg.arg in comments): continue
        kind = escape(ast.unparse(arg.annotation)) if arg.annotation else ''
        rows.append((code(arg.arg), kind, words(comments.get(arg.arg))))
    return table(rows, 'parameters')


def heading(level, name, text, more=''):
    return f'<h{level} id="{name}"><code>{text}<span>{escape(more)}</span></code></h{level}>'


def entry(name, node, known, level=3):
    "What is said of a function: signature, summary, parameters, result"
    comments, returned = known
    summary = paragraph(words(ast.get_docstring(node)))
    result = paragraph(f'Returns {words(returned)}' * bool(returned), 'returns')
    return heading(level, name, name, signature(node)) + summary + parameters(node, comments) + result


def class_entry(node, known):
    "What is said of a class: summary, how it is made, its fields and methods"
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    made = next((n for n in methods if n.name == '__init__'), None)
    parts = [heading(3, node.name, f'class {node.name}', signature(made) if made else ''),
        paragraph(words(ast.get_docstring(node)))]
    if made: parts.append(parameters(made, known.get((node.name, '__init__'), NOTHING)[0]))
    fields, said = [n for n in node.body if isinstance(n, ast.AnnAssign)], known.get((node.name, ''), NOTHING)[0]
    rows = [(code(n.target.id), escape(ast.unparse(n.annotation)), words(said.get(n.target.id))) for n in fields]
    parts.append(table(rows, 'parameters'))
    shown = [n for n in methods if not n.name.startswith('_') and ast.get_docstring(n)]
    parts += [entry(f'{node.name}.{n.name}', n, known.get((node.name, n.name), NOTHING), 4) for n in shown]
    return ''.join(parts)


def patched_class(node):
    "The class that `@patch` puts a function on, or ''"
    is_patch = any('patch' in ast.unparse(d) for d in node.decorator_list)
    first = node.args.args[0] if node.args.args else None
    return ast.unparse(first.annotation) if is_patch and first and first.annotation else ''


def module_page(module):
    "The body of a module's page"
    path, page = modules()[module], api_page(module)
    text, wanted = path.read_text(encoding='utf-8'), {*names_of(path)}
    tree, known = ast.parse(text), {(owner, name): found for owner, name, *found in signatures(text)}
    parts = [f'<h1>{code(f"consistency_cam.{module}")}</h1>', paragraph(words(ast.get_docstring(tree)))]
    if made := re.search(r'File to edit: (\S+)\.$', text, re.M):
        notebook = page_of((path.parent/made[1]).resolve())
        parts.append(paragraph(link(notebook, page, 'The notebook that it is made from')))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in wanted: parts.append(class_entry(node, known))
        if not isinstance(node, ast.FunctionDef) or node.name.startswith('_'): continue
        if owner := patched_class(node):
            parts.append(entry(f'{owner}.{node.name}', node, known.get((owner, node.name), NOTHING), 4))
        elif node.name in wanted: parts.append(entry(node.name, node, known.get(('', node.name), NOTHING)))
    body = ''.join(parts)
    constants = [f'<li id="{name}">{code(name)}</li>' for name in names_of(path) if f'id="{name}"' not in body]
    return body + f'<h3>Constants</h3><ul>{"".join(constants)}</ul>' * bool(constants)


def api_index():
    "The body of the page that lists the modules"
    def line(module):
        about = ast.get_docstring(ast.parse(modules()[module].read_text(encoding='utf-8')))
        return link(api_page(module), 'api/index.html', module), words(about)
    groups = {}
    for module in modules(): groups.setdefault(module.rpartition('.')[0], []).append(module)
    parts = [f'<h2>{house or "Main street"}</h2>{table(map(line, found))}' for house, found in groups.items()]
    lead = paragraph('What scripts need is there from <code>consistency_cam</code> itself.')
    return '<h1>Modules</h1>' + lead + ''.join(parts)


# The site

def label(path):
    "What a page is called among the others"
    if path.stem == 'index': return 'Start' if path.parent == NBS else 'Overview'
    return title(path)


def sidebar(page):
    "Links to all pages by house, the house of this page unfolded"
    def item(target, text): return link(target, page, text, aria_current='page' * (target == page))
    parts = []
    for house, paths in houses().items():
        links = ''.join(f'<li>{item(page_of(path), escape(label(path)))}</li>' for path in paths)
        here = any(page_of(path) == page for path in paths)
        parts.append(f'<details{" open" * here}><summary>{house}</summary><ul>{links}</ul></details>')
    parts.append(paragraph(item('api/index.html', 'Modules')))
    return f'<nav class="side" id="pages" aria-label="pages">{"".join(parts)}</nav>'


def neighbours(page):
    "Links to the pages before and after"
    order = reading_order()
    places = [page_of(path) for path in order]
    if page not in places: return ''
    at, links = places.index(page), []
    for step, word, rel in ((-1, 'Previous', 'prev'), (1, 'Next', 'next')):
        if not 0 <= at + step < len(order): continue
        text = f'<small>{word}</small> {escape(title(order[at + step]))}'
        links.append(link(places[at + step], page, text, rel=rel))
    return f'<nav class="steps" aria-label="previous and next">{"".join(links)}</nav>'


def document(page, heading, body):
    "A whole page"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)} – consistency_cam</title><link rel="stylesheet" href="{relative('site.css', page)}"></head>
<body>
<header>{link('index.html', page, 'consistency_cam')} <small>{__version__}</small><a href="#pages">pages</a></header>
{sidebar(page)}<main>{body}{neighbours(page)}</main></body></html>
"""


def build(out):
    "Write the site into a folder; its pages {path in it: title}"
    out, pages, files = Path(out), {}, set()
    if out.exists() and not (out/'site.css').exists() and any(out.iterdir()):
        sys.exit(f'{out}: not a site of this documentation; name another folder')
    shutil.rmtree(out, ignore_errors=True)
    def write(page, heading, body, linked=()):
        (out/page).parent.mkdir(parents=True, exist_ok=True)
        (out/page).write_text(document(page, heading, body), encoding='utf-8')
        pages[page] = heading
        files.update(linked)
    for path in reading_order(): write(page_of(path), title(path), *notebook_page(path))
    write('api/index.html', 'Modules', api_index())
    for module in modules(): write(api_page(module), module, module_page(module))
    for name in files:
        (out/'project'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, out/'project'/name)
    style = (ROOT/'docs'/'site.css').read_text(encoding='utf-8') + COLOURS.get_style_defs('.highlight')
    (out/'site.css').write_text(style, encoding='utf-8')
    return pages


if __name__ == '__main__':
    folder = sys.argv[1] if len(sys.argv) > 1 else ROOT/'_docs'
    print(f'{len(build(folder))} pages: {folder}/index.html')
