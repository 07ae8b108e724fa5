"""Makes `import torchvision` work beside a CPU build of torch.

torchvision's wheel links CUDA. Beside a CPU torch its native library does not load, the error is swallowed,
and the first fake registration fails with "operator torchvision::nms does not exist"; open_clip and timm fall
with it. Just before torchvision is first imported we try its native library ourselves, and only if that fails
declare the operators it would have declared. Models, transforms and data sets then work; `ops.nms`, detection
models and `torchvision.io` do not (this project decodes with Pillow). Torch itself is not imported early.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_libraries: list[object] = []  # torch.library.Library objects must stay alive


def _declare_operators(spec: importlib.machinery.ModuleSpec) -> None:
    import torch

    for folder in spec.submodule_search_locations or ():
        for library in sorted(Path(folder).glob("_C*.so")):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(operators)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            _declare_operators(spec)
        return spec


def install() -> None:
    """Install the hook once; does nothing when torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
