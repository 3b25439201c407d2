"""Makes docstrings of docments: the comment beside a parameter is what `help` and Shift-Tab show of it.

Nothing is exported for it, and nothing of it is heavy: as a module of the package is imported, its signatures
are found in its source, a line per parameter, and what they say is added to the docstrings of its functions."""
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

PACKAGE = __package__
ITEMS = re.compile(  # a class with its fields; a function over several lines; a function in one, with what it returns
    r'^class (?P<owner>\w+).*\n(?P<fields>(?: {4}(?!def |@|async ).*\n)*)|'
    r'^(?P<indent> *)(?:async )?def (?P<name>\w+)\((?:'
    r'(?P<first>[^\n(]*)\n(?P<lines>(?:(?P=indent) {4}(?!\)).*\n)+) *\)(?:[^:\n]*:  # (?P<returned>.*))?|'
    r'(?P<all>.*)\)[^:\n]*:  # (?P<returns>.*)$)', re.M)
PARAMETER = re.compile(r' *\*{0,2}(?P<name>\w+)\b(?:.*?  # (?P<comment>.*))?')


def comments(lines):
    "{name: comment} of a line per parameter; a comment may stand above it, too"
    found, above = {}, []
    for line in filter(None, lines.split('\n')):
        if line.lstrip().startswith('#'): above.append(line.strip(' #'))
        elif parameter := PARAMETER.match(line):
            found[parameter['name']] = ' '.join([*above, parameter['comment'] or '']).strip()
            above = []
    return {name: comment for name, comment in found.items() if comment}


def signatures(source):
    "Yield (class or '', function or '' for the class itself, {parameter: comment}, comment of what it returns)"
    owner = ''
    for item in ITEMS.finditer(source):
        if item['owner']:
            owner = item['owner']
            yield owner, '', comments(item['fields']), ''
            continue
        if not item['indent']: owner = ''
        patched = re.match(r'\s*(?:self|cls): (\w+)', item['first'] or item['lines'] or item['all'] or '')
        returned = item['returned'] or item['returns'] or ''
        yield owner or (patched[1] if patched else ''), item['name'], comments(item['lines'] or ''), returned


def docstring(summary, parameters, returned):
    "The summary, and below it what is said of parameters and result"
    parts, lines = [summary or ''], [f'    {name}: {comment}' for name, comment in parameters.items()]
    if lines: parts.append('\n'.join(['Args:', *lines]))
    if returned: parts.append(f'Returns:\n    {returned}')
    return '\n\n'.join(parts)


def document(module, source):
    "Add to the docstrings of a module's functions and methods what its source says of their parameters"
    for owner, name, parameters, returned in signatures(source):
        place = getattr(module, owner, None) if owner else module
        fields = vars(place).get('__dataclass_fields__', {}) if place and not name else {}
        if not name: name, parameters = '__init__', {k: v for k, v in parameters.items() if k in fields}
        if place is None or not parameters and not returned: continue
        function = vars(place).get(name)
        function = getattr(function, '__func__', function)  # of a class method
        if function is not None: function.__doc__ = docstring(function.__doc__, parameters, returned)


def documented(loader):
    "The loader's `exec_module`, with docstrings made of docments after it"
    load = loader.exec_module
    def exec_module(module):
        load(module)
        document(module, loader.get_source(module.__name__))
    return exec_module


class DocmentsFinder(MetaPathFinder):
    "Finds the package's modules where they are, and has them documented once they are executed"
    def find_spec(self, name, path=None, target=None):
        if not name.startswith(f'{PACKAGE}.'): return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and hasattr(spec.loader, 'get_source'): spec.loader.exec_module = documented(spec.loader)
        return spec


def install():
    "Put the finder first, once; docstrings that python leaves out are not made"
    if sys.flags.optimize < 2 and not any(type(finder).__name__ == 'DocmentsFinder' for finder in sys.meta_path):
        sys.meta_path.insert(0, DocmentsFinder())
