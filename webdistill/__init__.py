"""webdistill: a small student from a trained teacher whose training data is gone, with images from the web."""

from webdistill._torchvision import install as _install

__version__ = "0.1.0"

_install()
