"""Mobile networks of torchvision for images of 32 and 64 px: 32 px end in 4x4 maps, 64 px in 8x8.

At 224 px they divide the side by 32. Here the first two of the five halvings are left out, everything else is
torchvision's, tensors' names included:

    MobileNetV2   stem and the stage of 24 channels   (the others: 32, 64, 160 channels)
    MobileNetV3   small: stem and the block of 16 channels; large: stem and the stage of 24 channels
    ShuffleNetV2  stem and the max pooling, which is dropped

Sources: arXiv 1801.04381, 1905.02244, 1807.11164.
"""

from __future__ import annotations

from torch import nn
from torchvision import models

from webdistill.models.families.torchvision_nets import split_torchvision
from webdistill.models.families.wrapped import Wrapped

LEFT_OUT = 2  # halvings


def compact(name: str, num_classes: int) -> Wrapped:
    """`name` as torchvision has it, e.g. mobilenet_v3_small."""
    net = models.get_model(name, weights=None, num_classes=num_classes)
    halving = [
        (path, module)
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.stride in (2, (2, 2))
    ]
    for path, module in halving[:LEFT_OUT]:
        if isinstance(module, nn.MaxPool2d):
            net.set_submodule(path, nn.Identity())
        else:
            module.stride = (1, 1)
    split = split_torchvision(net)
    assert split is not None
    return Wrapped(split, net.state_dict(keep_vars=True))
