"""webdistill: a small student from a trained teacher whose training data is gone, with images from the web."""

import sys as _sys
from importlib.util import find_spec as _find_spec

from webdistill._torchvision import install as _install

__version__ = "0.1.0"

if (
    _find_spec("pydantic") is None
):  # such as `.venv/bin/dvc repro`, which takes the first `python` of the path
    _sys.stderr.write(
        f"error: {_sys.executable} lacks webdistill's libraries; run `source .venv/bin/activate` first\n"
    )
    _sys.exit(2)

_install()
