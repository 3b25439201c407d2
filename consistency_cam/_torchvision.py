"""Lets torchvision be imported where its compiled operators are missing.

A torchvision wheel built for CUDA beside a torch built for the CPU fails on import: "operator
torchvision::nms does not exist". Nothing in this package needs these operators, so they are declared,
without an implementation, and torchvision is imported once more. A torchvision that imports well is left
alone, and nothing is imported before somebody asks for torchvision.

A program that imports timm or torchvision before this package gets the error; after `import consistency_cam` the
same import works, also in the same session. `repair_environment`, which `make install` calls, has all programs
of an environment whose torchvision is such a one import this package as they start.
"""
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

SCHEMAS = [f'{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor' for op in ('nms', 'qnms')]
library = None # the declarations live as long as this object


def declare_operators():
    "Declare the operators that torchvision's Python code registers more for while it is imported"
    global library
    import torch
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for schema in SCHEMAS: library.define(schema)


def repaired(load):
    "The loader's `exec_module` that, where operators of torchvision are missing, declares them and loads again"
    def exec_module(module):
        try: load(module)
        except RuntimeError as error:
            if 'torchvision::' not in str(error): raise
            for name in [name for name in sys.modules if name.startswith('torchvision.')]: del sys.modules[name]
            declare_operators()
            load(module)
    return exec_module


class TorchvisionFinder(MetaPathFinder):
    "Finds torchvision where the other finders do, and has its loader repaired"
    def find_spec(self, name, path=None, target=None):
        if name != 'torchvision': return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader: spec.loader.exec_module = repaired(spec.loader.exec_module)
        return spec


def install():
    "Put the finder first, once; a torchvision that is already imported never meets it"
    if not any(type(finder).__name__ == 'TorchvisionFinder' for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def repair_environment(folder=None):
    "Where torchvision needs it, write a .pth file into `folder` or site-packages: then python itself installs the finder"
    import torchvision  # noqa: F401
    if library is None: return None
    path = Path(folder or sysconfig.get_path('purelib'))/'consistency_cam_torchvision.pth'
    path.write_text("import importlib.util as u; u.find_spec('consistency_cam') and __import__('consistency_cam')\n")
    return path
