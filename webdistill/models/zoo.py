"""Names of the built-in networks -> networks. `resnet20`, `wrn-16-2`, `resnet18`, ..."""

from __future__ import annotations

from webdistill.models.cifar import Classifier, ResNet, WideResNet
from webdistill.models.names import parse


def build(architecture: str, num_classes: int) -> Classifier:
    """A fresh, randomly initialised network. Raises UserError for a name that is not known."""
    family, numbers = parse(architecture)
    match family:
        case "big":
            return ResNet(num_classes, numbers, (64, 128, 256, 512), shortcut="conv")
        case "small":
            return ResNet(num_classes, numbers, (16, 32, 64), shortcut="pad")
        case "wide":
            return WideResNet(num_classes, *numbers)
