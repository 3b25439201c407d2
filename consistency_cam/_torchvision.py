"""Lets torchvision be imported where its compiled operators are missing.

A torchvision wheel built for CUDA beside a torch built for the CPU fails on import: "operator
torchvision::nms does not exist". Nothing in this package needs these operators, so they are declared,
without an implementation, and torchvision is imported once more. A torchvision that imports well is left
alone, and nothing is imported before somebody asks for torchvision.

A program that imports timm or torchvision before this package gets the error; after `import consistency_cam` the
same import works, also in the same session. `repair_environment`, which `make install` calls, has python install the
finder as it starts, in all programs of an environment whose torchvision is such a one.
"""
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

SCHEMAS = [f'{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor' for op in ('nms', 'qnms')]
# python runs such a line of a .pth file as it starts; this file alone is loaded by it, not the package
LINE = ("import importlib.util as u, os; s = u.find_spec('consistency_cam'); p = s and s.submodule_search_locations; "
    "m = p and u.spec_from_file_location('torchvision_repair', os.path.join(p[0], '_torchvision.py')); "
    "t = m and u.module_from_spec(m); m and (m.loader.exec_module(t), t.install())\n")


class TorchvisionFinder(MetaPathFinder):
    "Finds torchvision where the other finders do, and has its loader repaired"
    library = None  # the declarations of operators, which live as long as this object; None: none were missing

    def find_spec(self, name, path=None, target=None):
        if name != 'torchvision': return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec), None)
        if spec and spec.loader: spec.loader.exec_module = self.repaired(spec.loader.exec_module)
        return spec

    def repaired(self, load):
        "The loader's `exec_module` that, where operators of torchvision are missing, declares them and loads again"
        def exec_module(module):
            try: load(module)
            except RuntimeError as error:
                if 'torchvision::' not in str(error): raise
                for name in [name for name in sys.modules if name.startswith('torchvision.')]: del sys.modules[name]
                self.declare_operators()
                load(module)
        return exec_module

    def declare_operators(self):
        "Declare the operators that torchvision's Python code registers more for while it is imported"
        import torch
        self.library = torch.library.Library('torchvision', 'FRAGMENT')
        for schema in SCHEMAS: self.library.define(schema)


def finders(): return [finder for finder in sys.meta_path if type(finder).__name__ == 'TorchvisionFinder']


def install():
    "Put the finder first, once; a torchvision that is already imported never meets it"
    if not finders(): sys.meta_path.insert(0, TorchvisionFinder())


def is_repaired():
    "Whether the torchvision of this process is one that had to be repaired"
    return any(finder.library for finder in finders())


def repair_environment(folder=None):
    "Where torchvision needs it, write a .pth file into `folder` or site-packages by which python installs the finder"
    import torchvision  # noqa: F401
    if not is_repaired(): return None
    path = Path(folder or sysconfig.get_path('purelib'))/'consistency_cam_torchvision.pth'
    path.write_text(LINE)
    return path
