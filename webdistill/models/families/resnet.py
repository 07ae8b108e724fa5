"""Residual networks for 32 and 64 px: CIFAR ResNets and the 64-128-256-512 family.

Source: He et al. 2016 (arXiv 1512.03385, section 4.2).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from webdistill.models.classifier import Classifier, conv, initialise


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut; `pad` shortcuts (option A) have no weights, `conv` ones do (B)."""

    expansion = 1  # channels out per `width`

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs
        self.downsample: nn.Module | None = None
        if shortcut == "conv" and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(
                conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride != 1 or self.extra:
            left = self.extra // 2
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, left, self.extra - left)
            )
        return F.relu(out + x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with BN, four times `width` channels out, plus shortcut; the 3x3 one strides.

    A shortcut that changes the shape is a convolution (option B), whatever `shortcut` says.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = conv(inputs, width, kernel=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, stride=stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, kernel=1), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(Classifier):
    """ResNet for small images: 3x3 stem without pooling, stages of basic or bottleneck blocks.

    `depths=(3, 3, 3), widths=(16, 32, 64), shortcut="pad"` is ResNet-20;
    `depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), shortcut="conv"` is ResNet-18;
    `depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), shortcut="conv", block=Bottleneck` is ResNet-50.
    """

    def __init__(
        self,
        num_classes: int,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        shortcut: str,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        self.conv1 = conv(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels, self.stages = widths[0], len(depths)
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 1 else 1
                blocks.append(block(channels, width, stride, shortcut))
                channels = block.expansion * width
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for index in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{index}")(x)
        return x


def resnet(architecture: str, num_classes: int, depths: tuple[int, ...]) -> ResNet:
    """`resnet18`, `resnet34`, `resnet50` of the 64-128-256-512 family, or `resnet8` ... `resnet110` of CIFAR."""
    if len(depths) == 3:
        return ResNet(num_classes, depths, (16, 32, 64), shortcut="pad")
    block = Bottleneck if architecture == "resnet50" else BasicBlock
    return ResNet(num_classes, depths, (64, 128, 256, 512), "conv", block)
