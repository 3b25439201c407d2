"""From images with class labels to pixel masks, by Consistency-CAM and the methods it is compared with."""

__version__ = "0.1.0"

from importlib import import_module

from . import _docments, _moved, _torchvision

_torchvision.install()
_docments.install()
_moved.install()

NAMES = {name: module for module, names in {  # loaded when first asked for
    'pooling': 'gap noisy_or register_pooling', 'camnet': 'CAMNet', 'cams': 'CamStore infer_cams',
    'tiling': 'merge tile', 'views': 'HFlip RandomCrop RandomResize Tiles',
    'consistency': 'ConsistencyTask Method alpha_at consistency_loss register', 'iterated': 'IteratedLearning',
    'crf': 'dense_crf', 'affinity': 'AffinityNet BoundaryNet', 'randomwalk': 'random_walk',
    'deeplab': 'DeepLabV3 DeepLabV3Plus', 'datasets.scenes': 'Scenes', 'datasets.voc': 'VOC', 'datasets.coco': 'COCO',
    'datasets.folder': 'Folder', 'files.errors': 'InputError', 'files.images': 'as_picture',
    'tools.metrics': 'ConfusionMatrix', 'tools.show': 'overlay', 'experiments.recipes': 'recipe',
    'experiments.pipeline': 'Run run', 'experiments.imported': 'import_cams'}.items() for name in names.split()}


def __getattr__(name):
    if name not in NAMES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{NAMES[name]}', __name__), name)


def __dir__(): return sorted({*globals(), *NAMES})
