"""Names of the built-in networks -> networks. `resnet20`, `wrn-16-2`, `resnet18`, ..."""

from __future__ import annotations

import re

from webdistill.core.errors import UserError
from webdistill.models.cifar import Classifier, ResNet, WideResNet

_BIG = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_EXAMPLES = "resnet8, resnet20, resnet56, resnet18, resnet34, wrn-16-1, wrn-16-2, wrn-40-2"


def build(architecture: str, num_classes: int) -> Classifier:
    """A fresh, randomly initialised network. Raises UserError for a name that is not known."""
    if architecture in _BIG:
        return ResNet(num_classes, _BIG[architecture], (64, 128, 256, 512), shortcut="conv")
    if match := re.fullmatch(r"resnet(\d+)", architecture):
        depth = int(match[1])
        if depth >= 8 and (depth - 2) % 6 == 0:
            return ResNet(num_classes, ((depth - 2) // 6,) * 3, (16, 32, 64), shortcut="pad")
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", architecture):
        depth, widen = int(match[1]), int(match[2])
        if depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1:
            return WideResNet(num_classes, depth, widen)
    raise UserError(f"unknown architecture {architecture!r}; examples: {_EXAMPLES}")
