"""VGG with batch normalisation for small images: 32 px end in 4x4 maps, 64 px in 8x8, of 512 channels.

Four of the five poolings of Simonyan & Zisserman 2015 (arXiv 1409.1556) would leave 2x2 maps; as usual on CIFAR, only
the first three stages pool, and one linear layer follows the global average.
"""

from __future__ import annotations

from torch import Tensor, nn

from webdistill.models.classifier import Classifier, conv, initialise

WIDTHS = (64, 128, 256, 512, 512)
POOLED = 3  # stages that end in a 2x2 max pooling


class Vgg(Classifier):
    """`depths`: 3x3 convolutions (each with BN and ReLU) per stage; vgg13 is (2, 2, 2, 2, 2)."""

    def __init__(self, num_classes: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        channels, layers = 3, []
        for stage, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
            for _ in range(depth):
                layers += [conv(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if stage < POOLED:
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)
