"""Doubling and convolution in one equal doubling, then convolution."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.distill.methods.doubling import DoublingConv


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 1, 1), (2, 3, 5, 7)])
def test_values_and_gradients_are_those_of_the_plain_way(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = DoublingConv(3, 5).double()
    maps = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(maps, scale_factor=2), layer.weight, padding=1)
    found = layer(maps)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
    weight = torch.randn_like(plain)
    own = torch.autograd.grad((found * weight).sum(), (maps, layer.weight))
    theirs = torch.autograd.grad((plain * weight).sum(), (maps, layer.weight))
    for ours, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-12)


def test_weights_begin_as_those_of_the_plain_layer() -> None:
    torch.manual_seed(3)
    own = DoublingConv(4, 2).weight
    torch.manual_seed(3)
    assert torch.equal(own, torch.nn.Conv2d(4, 2, 3, padding=1, bias=False).weight)
