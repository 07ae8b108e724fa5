"""Names of networks -> networks. `resnet20`, `wrn-16-2`, `mobilenetv3-small`, `torchvision:resnet50`, ..."""

from __future__ import annotations

from webdistill.models.cifar import Bottleneck, Classifier, ResNet, WideResNet
from webdistill.models.names import parse
from webdistill.models.vgg import Vgg


def build(architecture: str, num_classes: int, image_size: int | None = None) -> Classifier:
    """A fresh, randomly initialised network. Raises UserError for a name that is not known.

    `image_size`: side of the images it will get. Networks of a library or of the user may refuse others and are tried
    with it; None tries usual ones.
    """
    known = parse(architecture)
    match known.family:
        case "big" if architecture == "resnet50":
            return ResNet(num_classes, known.numbers, (64, 128, 256, 512), "conv", Bottleneck)
        case "big":
            return ResNet(num_classes, known.numbers, (64, 128, 256, 512), shortcut="conv")
        case "small":
            return ResNet(num_classes, known.numbers, (16, 32, 64), shortcut="pad")
        case "wide":
            return WideResNet(num_classes, *known.numbers)
        case "vgg":
            return Vgg(num_classes, known.numbers)
        case "compact":
            from webdistill.models.compact import compact  # libraries take seconds to import

            return compact(known.name, num_classes)
        case "torchvision":
            from webdistill.models.torchvision_nets import from_torchvision

            return from_torchvision(known.name, num_classes, image_size)
        case "timm":
            from webdistill.models.timm_nets import from_timm

            return from_timm(known.name, num_classes, image_size)
        case "code":
            from webdistill.models.usercode import from_code

            return from_code(known.name, num_classes, image_size)
