"""Doubled maps and a convolution in one, for generators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoublingConv(nn.Conv2d):
    """Maps [B, I, H, W] -> [B, O, 2 H, 2 W]: nearest-neighbour doubling, then a 3 x 3 convolution with padding 1.

    The doubled maps are never made. Where neighbours are equal, nine taps see four inputs: every parity of output rows
    and columns has a 2 x 2 kernel of its own, whose taps are sums of those of the 3 x 3 one. That is 4 / 9 of the
    multiplications and a little for one row and column more (0.56 in all at 8 x 8, 0.47 at 32 x 32). Sums are taken in
    another order, so results differ from the plain way by rounding.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        kernels = _paired(_paired(self.weight, 2), 3).flatten(0, 2)  # [4 O, I, 2, 2]
        kernels = kernels.contiguous(memory_format=torch.channels_last)
        found = F.conv2d(maps, kernels, padding=1)  # one row and one column more than maps
        height, width = maps.shape[2:]
        parts = found.permute(0, 2, 3, 1).unflatten(3, (2, 2, self.out_channels))  # x, y, O
        rows = [
            torch.stack([parts[:, y : y + height, x : x + width, x, y] for x in (0, 1)], dim=3)
            for y in (0, 1)
        ]
        whole = torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2)  # [B, 2 H, 2 W, O]
        return whole.permute(0, 3, 1, 2)  # in channels_last


def _paired(weight: Tensor, axis: int) -> Tensor:
    """Three taps along `axis` -> [2, ...]: the two of even outputs (t0, t1 + t2), of odd ones (t0 + t1, t2)."""
    axis -= 4  # from the end: a first axis may have come before
    first, middle, last = weight.unbind(axis)
    even = torch.stack([first, middle + last], dim=axis)
    odd = torch.stack([first + middle, last], dim=axis)
    return torch.stack([even, odd])
