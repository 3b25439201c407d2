"""`import consistency_cam` is light, and torchvision can be imported with it, also without its compiled operators."""
import subprocess
import sys

import pytest

# Torchvision in small: what it is imported with, without the operators it was compiled with.
BROKEN = '''
from . import extension
import torch
@torch.library.register_fake('torchvision::nms')
def nms(dets, scores, iou_threshold): return scores
'''


def python(code, path):
    "What a new process prints for `code`, with the package of `path` in reach and without what a .pth file installed"
    forget = "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'TorchvisionFinder']"
    code = f'import sys; sys.path.insert(0, {str(path)!r}); {forget}\n{code}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return done.stdout.strip() + done.stderr.strip().rpartition('\n')[2]


@pytest.fixture
def torchvision(tmp_path):
    "Writes a stand-in for torchvision"
    def write(code):
        (tmp_path/'torchvision').mkdir()
        (tmp_path/'torchvision'/'__init__.py').write_text(code)
        (tmp_path/'torchvision'/'extension.py').write_text('')
        return tmp_path
    return write


def test_import_is_light(tmp_path):
    heavy = "sorted({'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'matplotlib', 'accelerate'} & set(sys.modules))"
    assert python(f'import consistency_cam; print({heavy})', tmp_path) == '[]'


def test_missing_operators_are_declared(torchvision):
    path = torchvision(BROKEN)
    bare = "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'TorchvisionFinder']; import torchvision"  # `make install` may have put one there
    assert 'torchvision::nms does not exist' in python(bare, path)
    assert python('import consistency_cam, torchvision; print(torchvision.nms.__name__)', path) == 'nms'


def test_a_session_in_which_it_failed_goes_on_after_our_import(torchvision):
    code = """
try: import torchvision
except RuntimeError: pass
import consistency_cam, torchvision; print(torchvision.nms.__name__)"""
    assert python(code, torchvision(BROKEN)) == 'nms'


def test_a_pth_file_repairs_what_is_imported_before_us(torchvision):
    write = "import consistency_cam._torchvision as t, pathlib; print(t.repair_environment({!r}))"
    path = torchvision(BROKEN)
    file = python(write.format(str(path)), path)
    code = f"import site; site.addsitedir({str(path)!r}); import torchvision; print(torchvision.nms.__name__, 'consistency_cam' in sys.modules)"
    assert file.endswith('.pth') and python(code, path) == 'nms False'
    assert python(f'{code}; import consistency_cam; print(len(consistency_cam._torchvision.finders()))', path).splitlines()[-1] == '1'


def test_an_environment_that_needs_none_gets_no_pth_file(torchvision):
    path = torchvision('')
    assert python(f'import consistency_cam._torchvision as t; print(t.repair_environment({str(path)!r}))', path) == 'None'
    assert not [*path.glob('*.pth')]


def test_complete_torchvision_is_left_alone(torchvision):
    code = "import consistency_cam, torchvision; print(consistency_cam._torchvision.is_repaired(), 'torch' in sys.modules)"
    assert python(code, torchvision('')) == 'False False'


def test_other_errors_pass(torchvision):
    path = torchvision('raise RuntimeError("no driver")')
    assert python('import consistency_cam, torchvision', path) == 'RuntimeError: no driver'


def test_imported_torchvision_stays(torchvision):
    code = 'import torchvision; a = torchvision; import consistency_cam, torchvision; print(torchvision is a)'
    assert python(code, torchvision('')) == 'True'


def test_the_installed_ones_import(tmp_path):
    code = 'import consistency_cam, timm; from torchvision.transforms import v2; print(v2.__name__)'
    assert python(code, tmp_path) == 'torchvision.transforms.v2'
