"""Small image classifiers for 32 and 64 px: CIFAR ResNets, wide ResNets and the 64-128-256-512 family.

Every network here splits in the same two places, which is all the rest of the project needs to know:

    maps = net.features(x)        # [B, C, h, w] last convolutional maps
    logits = net.classify(maps)   # [B, K]; global average pool, then `net.fc`

Sources: He et al. 2016 (arXiv 1512.03385, section 4.2), Zagoruyko & Komodakis 2016 (arXiv 1605.07146).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Classifier(nn.Module):
    """Base of all networks: `features`, `pool`, `classify`; subclasses set `fc` and implement `features`."""

    fc: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W], normalised -> last convolutional maps [B, C, h, w]."""
        raise TypeError(f"{type(self).__name__} must define features()")

    def pool(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> penultimate features [B, C]."""
        return maps.mean(dim=(2, 3))

    def classify(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> logits [B, K]."""
        return self.fc(self.pool(maps))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    @property
    def width(self) -> int:
        """Number of channels C of the last maps."""
        return self.fc.in_features


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut; `pad` shortcuts (option A) have no weights, `conv` ones do (B)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs
        self.downsample: nn.Module | None = None
        if shortcut == "conv" and (stride != 1 or inputs != outputs):
            self.downsample = nn.Sequential(
                _conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs)
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


class ResNet(Classifier):
    """ResNet for small images: 3x3 stem without pooling, stages of basic blocks.

    `depths=(3, 3, 3), widths=(16, 32, 64), shortcut="pad"` is ResNet-20;
    `depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), shortcut="conv"` is ResNet-18.
    """

    def __init__(
        self, num_classes: int, depths: tuple[int, ...], widths: tuple[int, ...], shortcut: str
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels, self.stages = widths[0], len(depths)
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and index > 1 else 1
                blocks.append(BasicBlock(channels, width, stride, shortcut))
                channels = width
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for index in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{index}")(x)
        return x


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut, as in wide ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.shortcut = (
            None
            if stride == 1 and inputs == outputs
            else _conv(inputs, outputs, kernel=1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(out)
        out = self.conv1(out)
        return x + self.conv2(F.relu(self.bn2(out)))


class WideResNet(Classifier):
    """WRN-depth-widen for small images; depth must be 6n + 4."""

    def __init__(self, num_classes: int, depth: int, widen: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = _conv(3, 16)
        channels = 16
        for index, base in enumerate((16, 32, 64), start=1):
            stage = []
            for block in range(blocks):
                stride = 2 if block == 0 and index > 1 else 1
                stage.append(PreActBlock(channels, base * widen, stride))
                channels = base * widen
            self.add_module(f"layer{index}", nn.Sequential(*stage))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for index in (1, 2, 3):
            x = self.get_submodule(f"layer{index}")(x)
        return F.relu(self.bn(x))


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def parameters(net: nn.Module) -> int:
    """Number of trainable and frozen weights, buffers not counted."""
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def multiply_adds(net: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image through all convolutions and linear layers (bias and BN not counted)."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [
        m.register_forward_hook(count)
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    was_training = net.training
    device = next(net.parameters()).device
    net.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return total
