"""Lets torchvision be imported where its compiled operators are missing.

A torchvision wheel built for CUDA beside a torch built for the CPU fails on import: "operator
torchvision::nms does not exist". Nothing in this package needs these operators, so they are declared,
without an implementation, and torchvision is imported once more. A torchvision that imports well is left
alone, and nothing is imported before somebody asks for torchvision.
"""
import sys
from importlib.abc import MetaPathFinder

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
