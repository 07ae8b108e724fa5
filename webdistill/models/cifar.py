"""Small image classifiers for 32 and 64 px: CIFAR ResNets, wide ResNets and the 64-128-256-512 family.

Every network splits in the same places, which is all the rest of the project needs to know:

    maps = net.features(x)          # [B, C, h, w] last convolutional maps
    penultimate = net.pool(maps)    # [B, D] = net.neck(net.pooling(maps)), what the last layer reads
    logits = net.answer(penultimate)  # [B, K] = net.classify(maps) = net.fc(penultimate), compensated where it is

Sources: He et al. 2016 (arXiv 1512.03385, section 4.2), Zagoruyko & Komodakis 2016 (arXiv 1605.07146).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from webdistill.models.compensation import Compensation
from webdistill.models.names import Attention, Query


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Padded so that stride 1 keeps the size; no bias, BN follows."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class GlobalAverage(nn.Module):
    """Maps [B, C, h, w] -> [B, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


class Classifier(nn.Module):
    """Base of all networks: `features`, then `pooling`, `neck`, `fc`. Subclasses set `fc`, implement `features`."""

    fc: nn.Linear
    library_names: Mapping[str, str]  # what a library calls a tensor -> its name in state_dict()
    library_extras: tuple[
        str, ...
    ] = ()  # how tensors begin that the library's files hold and we need not

    def __init__(self) -> None:
        super().__init__()
        self.library_names = {}
        self.pooling: nn.Module = GlobalAverage()
        self.neck: nn.Module = nn.Identity()  # layers between the pooled features and `fc`
        self.compensation: Compensation | None = None  # KDCI; None answers raw

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W], normalised -> last convolutional maps [B, C, h, w]."""
        raise TypeError(f"{type(self).__name__} must define features()")

    def pool(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> penultimate features [B, D], the input of `fc`; D = C unless `neck` widens."""
        return self.neck(self.pooling(maps))

    def answer(self, penultimate: Tensor) -> Tensor:
        """Penultimate features [B, D] -> logits [B, K]."""
        logits: Tensor = self.fc(penultimate)
        if self.compensation is None:
            return logits
        added: Tensor = self.compensation(logits, penultimate)
        return logits + added

    def classify(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] -> logits [B, K]."""
        return self.answer(self.pool(maps))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    @property
    def channels(self) -> int:
        """Number of channels C of the last maps."""
        return self.fc.in_features

    @property
    def compensated(self) -> int:
        """Length of what a compensation adds: to the K logits."""
        return self.fc.out_features

    def new_compensation(
        self, count: int, width: int, query: Query, attention: Attention, use_prior: bool
    ) -> Compensation:
        """One that fits this network, for `count` prototypes of length `width`; not yet in use."""
        inputs = self.fc.out_features if query == "logits" else self.fc.in_features
        return Compensation(
            inputs,
            self.compensated,
            count,
            width,
            query=query,
            attention=attention,
            use_prior=use_prior,
        )


def average_to(maps: Tensor, side: int) -> Tensor:
    """Maps [B, C, h, w] -> [B, C, side, side], each the mean of its window, as adaptive average pooling does it.

    Written with operations that every ONNX runtime has: that pooling is exported for whole windows only.
    """
    height, width = int(maps.shape[-2]), int(maps.shape[-1])
    if height % side == 0 and width % side == 0:
        return F.avg_pool2d(maps, (height // side, width // side))
    rows, columns = (_windows(length, side).to(maps) for length in (height, width))
    return rows @ maps @ columns.T


def _windows(length: int, side: int) -> Tensor:
    """[side, length]; row i averages positions floor(i length / side) ... ceil((i + 1) length / side) - 1."""
    matrix = torch.zeros(side, length)
    for row in range(side):
        start, end = row * length // side, -(-(row + 1) * length // side)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


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


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut, as in wide ResNets."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.shortcut = (
            None
            if stride == 1 and inputs == outputs
            else conv(inputs, outputs, kernel=1, stride=stride)
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
        self.conv1 = conv(3, 16)
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
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for index in (1, 2, 3):
            x = self.get_submodule(f"layer{index}")(x)
        return F.relu(self.bn(x))


def initialise(net: nn.Module) -> None:
    """He initialisation of convolutions (fan out), zero biases of linear layers."""
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
    """Multiply-adds of one image through all convolutions and linear layers.

    Not counted: bias, BN, and the products inside attention, which are no layers.
    """
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):  # a linear layer may see many tokens
            total += output.numel() * module.weight[0].numel()

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
