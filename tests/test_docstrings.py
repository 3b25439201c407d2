"""What a person sees who asks python for help: each comment beside a parameter is in a docstring, and stays cheap."""
import inspect
import pkgutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from fastcore.docments import docments

import consistency_cam
from consistency_cam._docments import signatures

MODULES = [m.name for m in pkgutil.walk_packages(consistency_cam.__path__, 'consistency_cam.')
           if not m.name.rpartition('.')[2].startswith('_')]


def documented():
    "(where, function, the function whose source has the comments) of all that modules export, and of their methods"
    for name in MODULES:
        module = import_module(name)
        for key in getattr(module, '__all__', []):
            made = getattr(module, key)
            if getattr(made, '__module__', None) != name: continue
            members = vars(made).items() if inspect.isclass(made) else [(None, made)]
            for method, function in members:
                function = getattr(function, '__func__', function)
                if inspect.isfunction(function) and inspect.unwrap(function).__module__.startswith('consistency_cam.'):
                    if method and inspect.unwrap(function).__name__ != method: continue
                    yield f'{name}.{key}' + f'.{method}' * bool(method), function


def lines(text): return ' '.join(text.split())


def test_comments_beside_parameters_are_in_the_docstrings():
    lacking, count = [], 0
    for where, function in documented():
        try: found = docments(function, full=True)
        except OSError: continue  # what a dataclass makes has no source
        doc = lines(inspect.getdoc(function) or '')
        for name, about in found.items():
            if not about.docment or name == 'self' or name == 'return' and '\n' in about.docment: continue
            count += 1
            if lines(about.docment) not in doc: lacking.append(f'{where}: {name}')
    assert count > 1000 and not lacking, lacking


def test_help_says_what_parameters_are():
    from consistency_cam import CAMNet, Method, noisy_or
    from consistency_cam.camnet import BackboneNet
    assert inspect.getdoc(noisy_or).endswith('Args:\n    cams: (B,C,h,w) logits of the cells')
    assert 'num_classes: C, foreground classes' in inspect.getdoc(CAMNet.__init__)
    assert 'stages: leading stages of the pyramid' in inspect.getdoc(BackboneNet.freeze), 'a method that is patched in'
    assert 'title: as in tables and pictures' in inspect.getdoc(Method.__init__), 'the fields of a dataclass'


def test_it_costs_little():
    sources = [path.read_text(encoding='utf-8') for path in Path(consistency_cam.__file__).parent.rglob('*.py')]
    begun = time.process_time()
    count = sum(1 for source in sources for _ in signatures(source))
    assert count > 500 and time.process_time() - begun < .5  # all modules together
    code = "import sys, consistency_cam; assert not {'torch', 'fastcore', 'inspect'} & {*sys.modules}"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
