"""How the exported code reads: width of its lines, one meaning per name, one dialect of docstrings and signatures.

Everything is read from the sources, nothing is imported."""
import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent/'consistency_cam'
WIDTH = 120
WIDER = .01  # share of the lines that may be wider


@cache
def source(path): return path.read_text()


@cache
def tree(path): return ast.parse(source(path))


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


SOURCES = {module_name(p): p for p in sorted(PACKAGE.rglob('*.py')) if p.name != '_modidx.py'}
each_module = pytest.mark.parametrize('module', [m or 'consistency_cam' for m in SOURCES])


def of(module): return SOURCES['' if module == 'consistency_cam' else module]


def called(node): return getattr(node.func, 'attr', getattr(node.func, 'id', ''))


def error_lines(path):
    "Lines that may run on: those with a text of an error or a warning, where the statement has a line of its own"
    lines, found = source(path).split('\n'), set()
    for statement in ast.walk(tree(path)):
        if not isinstance(statement, (ast.Raise, ast.Return, ast.Expr, ast.Assign)): continue
        if lines[statement.lineno - 1].encode()[:statement.col_offset].strip(): continue
        for call in (n for n in ast.walk(statement) if isinstance(n, ast.Call)):
            if not (isinstance(statement, ast.Raise) or called(call).endswith(('Error', 'warn', 'refuse'))): continue
            for n in ast.walk(call):
                if isinstance(n, ast.JoinedStr) or isinstance(n, ast.Constant) and isinstance(n.value, str):
                    found.update(range(n.lineno, n.end_lineno + 1))
    return found


def all_lines(path):
    "Lines of `__all__`, as nbdev writes them"
    return {n for s in tree(path).body if isinstance(s, ast.Assign) and getattr(s.targets[0], 'id', '') == '__all__'
            for n in range(s.lineno, s.end_lineno + 1)}


def test_width():
    wide, count = [], 0
    for path in SOURCES.values():
        lines, exempt = source(path).split('\n'), error_lines(path) | all_lines(path)
        count += len(lines)
        wide += [f'{path.name}:{n}' for n, line in enumerate(lines, 1) if len(line) > WIDTH and n not in exempt]
    assert count > 5000
    assert len(wide) <= WIDER * count, f'{len(wide)} of {count} lines are wider than {WIDTH}: {", ".join(wide[:20])}, …'


def exported(module):
    "Names in `__all__` of a module"
    lists = [n.value for n in tree(SOURCES[module]).body
             if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__']
    return ast.literal_eval(lists[0]) if lists else []


def imported_module(module, statement):
    "Module of the package that a statement imports from, or None"
    if not statement.level:
        first, _, rest = (statement.module or '').partition('.')
        return rest if first == PACKAGE.name else None
    parts = module.split('.') if module else []
    if SOURCES[module].name != '__init__.py': parts = parts[:-1]
    parts = parts[:len(parts) - statement.level + 1]
    return '.'.join([*parts, *filter(None, [statement.module])])


def defined_in(module, name):
    "Module in which an exported name gets its meaning"
    for statement in tree(SOURCES[module]).body:
        if not isinstance(statement, ast.ImportFrom): continue
        other = imported_module(module, statement)
        if other not in SOURCES: continue
        for alias in statement.names:
            if alias.name == '*' and name in exported(other): return defined_in(other, name)
            if (alias.asname or alias.name) == name: return defined_in(other, alias.name)
    return module, name


def test_one_meaning_per_name():
    meanings = {}
    for module in SOURCES:
        for name in exported(module): meanings.setdefault(name, set()).add(defined_in(module, name))
    assert len(meanings) > 300
    twice = {name: sorted(m for m, _ in places) for name, places in meanings.items() if len(places) > 1}
    assert not twice, f'exported with two meanings: {twice}; rename one of each'


@each_module
def test_docstrings_end_without_a_full_stop(module):
    bad = []
    for node in ast.walk(tree(of(module))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        text = (ast.get_docstring(node) or '').rstrip()
        if text.endswith('.') and not text.endswith(('...', 'etc.')): bad.append(f'{node.name} (line {node.lineno})')
    assert not bad, f'docstrings that end in a full stop: {", ".join(bad)}'


def parameters(function):
    "(argument, default) of those that have one"
    a = function.args
    given = a.posonlyargs + a.args
    return [*zip(given[len(given) - len(a.defaults):], a.defaults), *zip(a.kwonlyargs, a.kw_defaults)]


@each_module
def test_spaces_around_an_annotated_default(module):
    lines, bad = [line.encode() for line in source(of(module)).split('\n')], []
    for node in ast.walk(tree(of(module))):
        if isinstance(node, ast.AnnAssign): pairs = [(node, node.annotation, node.value)]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pairs = [(arg, arg.annotation, default) for arg, default in parameters(node)]
        else: continue
        for arg, kind, default in pairs:
            if kind is None or default is None or kind.end_lineno != default.lineno: continue
            between = lines[default.lineno - 1][kind.end_col_offset:default.col_offset]
            if between.rstrip(b'( ') != b' =' or not between.startswith(b' = '): bad.append(f'line {arg.lineno}')
    assert not bad, f'write `name: type = default`: {", ".join(bad)}'
