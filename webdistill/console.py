"""The program `webdistill`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Become `python -m webdistill`: there the code in the current folder comes first, as for DVC's stages."""
    os.execv(sys.executable, [sys.executable, "-m", "webdistill", *sys.argv[1:]])  # noqa: S606
