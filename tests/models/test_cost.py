"""What a network costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from webdistill.models.classifier import Classifier
from webdistill.models.cost import multiply_adds
from webdistill.models.zoo import build


def test_multiply_adds_count_every_token_and_every_group() -> None:
    class Tokens(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1, groups=3)
            self.each = nn.Linear(6, 4)
            self.fc = nn.Linear(4, 2)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return self.each(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert multiply_adds(Tokens(), 8) == 64 * 6 * 9 + 64 * 6 * 4 + 4 * 2


def naively(net: nn.Module, size: int) -> int:
    """Multiply-adds of one image counted by hand: each output number of a convolution or linear layer has a sum."""
    counts: list[int] = []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        counts.append(output.numel() * weight[0].numel())

    hooks = [
        module.register_forward_hook(count)
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2", "mobilenetv3-small"])
def test_multiply_adds_are_those_of_a_count_by_hand(name: str) -> None:
    """Plain, wide, and with convolutions in groups."""
    net = build(name, 10)
    assert multiply_adds(net, 32) == naively(net, 32) > 1e6
    assert multiply_adds(net, 64) == naively(net, 64)
    assert net.train().training
    multiply_adds(net, 32)
    assert net.training, "it stays as it was"
