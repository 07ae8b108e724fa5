"""The base of every network: where a classifier is split, and the few layers that several families share.

Every network splits in the same places, which is all the rest of the project needs to know:

    maps = net.features(x)          # [B, C, h, w] last convolutional maps
    penultimate = net.pool(maps)    # [B, D] = net.neck(net.pooling(maps)), what the last layer reads
    logits = net.answer(penultimate)  # [B, K] = net.classify(maps) = net.fc(penultimate), compensated where it is
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from webdistill.models.compensation import Compensation
from webdistill.models.names import Attention, Fuse, Query


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
    logits_alone = False  # whether `fc` is the identity, for want of a last linear layer: its maps are its logits
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
        added: Tensor = self.compensation(logits, penultimate, logits)
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
        self,
        count: int,
        width: int,
        query: Query,
        attention: Attention,
        use_prior: bool,
        fuse: Fuse = "add",
        centred: bool = True,
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
            fuse=fuse,
            centred=centred,
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


def initialise(net: nn.Module) -> None:
    """He initialisation of convolutions (fan out), zero biases of linear layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
