"""From images with class labels to pixel masks, by Consistency-CAM and the methods it is compared with."""

__version__ = "0.1.0"

from . import _torchvision

_torchvision.install()
