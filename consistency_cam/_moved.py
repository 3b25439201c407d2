"""Where a name is now that stood elsewhere before: imports from the old place go on working."""
from importlib import import_module

MOVED = {  # old 'module.NAME' -> new one, both within the package
    'batchnorm.FoldingConv2d': 'fast.folding.FoldingConv2d',
    'batchnorm.Norm2d': 'fast.folding.Norm2d',
    'batchnorm.NormAct2d': 'fast.folding.NormAct2d',
    'batchnorm.fold': 'fast.folding.fold',
    'camnet.DilatedDepthwise': 'fast.convolutions.DilatedDepthwise',
    'camnet.exporting': 'fast.kernels.exporting',
    'camnet.split_dilation': 'fast.swap.fast',
    'deeplab.AtrousConv': 'fast.convolutions.AtrousConv',
    'deeplab.conv_enlarged': 'fast.convolutions.conv_enlarged',
    'deeplab.enlargement': 'fast.convolutions.enlargement',
}


def moved(module):
    "`__getattr__` of a module that names have moved from"
    old = module.removeprefix('consistency_cam.')
    def find(name):
        if f'{old}.{name}' not in MOVED: raise AttributeError(f"module '{module}' has no attribute '{name}'")
        place, _, name = MOVED[f'{old}.{name}'].rpartition('.')
        return getattr(import_module(f'consistency_cam.{place}'), name)
    return find
