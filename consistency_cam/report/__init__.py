"""Reports and the paper's tables; what was the module `report` stands in `report.page`."""
from importlib import import_module


def __getattr__(name):
    if name.startswith('__'): raise AttributeError(name)
    return getattr(import_module('.page', __name__), name)
