"""Names of networks -> networks. `resnet20`, `wrn-16-2`, `mobilenetv3-small`, `torchvision:resnet50`, ...

A family is imported only when it is asked for: libraries take seconds, and a stage depends on the families that it
uses alone (`names.family_file`).
"""

from __future__ import annotations

from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier
from webdistill.models.names import parse


def build(architecture: str, num_classes: int, image_size: int | None = None) -> Classifier:
    """A fresh, randomly initialised network. Raises UserError for a name that is not known.

    `image_size`: side of the images it will get. Networks of a library or of the user may refuse others and are tried
    with it; None tries usual ones.
    """
    known = parse(architecture)
    match known.family:
        case "resnet":
            from webdistill.models.families.resnet import resnet

            return resnet(architecture, num_classes, known.numbers)
        case "wide":
            from webdistill.models.families.wide import WideResNet

            return WideResNet(num_classes, *known.numbers)
        case "vgg":
            from webdistill.models.families.vgg import Vgg

            return Vgg(num_classes, known.numbers)
        case "compact":
            from webdistill.models.families.compact import compact

            return compact(known.name, num_classes)
        case "torchvision":
            from webdistill.models.families.torchvision_nets import from_torchvision

            return from_torchvision(known.name, num_classes, image_size)
        case "timm":
            from webdistill.models.families.timm_nets import from_timm

            return from_timm(known.name, num_classes, image_size)
        case "code":
            from webdistill.models.families.usercode import from_code

            return from_code(known.name, num_classes, image_size)


def pretrained(architecture: str) -> dict[str, Tensor]:
    """The weights that a library has for its network, under the library's names; may download them.

    Raises UserError for a network of no library, and where the library cannot load any.
    """
    known = parse(architecture)
    match known.family:
        case "torchvision":
            from webdistill.models.families import torchvision_nets

            return torchvision_nets.pretrained(known.name)
        case "timm":
            from webdistill.models.families import timm_nets

            return timm_nets.pretrained(known.name)
    raise UserError(f"{architecture} has no pretrained weights; only torchvision's and timm's have")
