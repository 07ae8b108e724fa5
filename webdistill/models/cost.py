"""What a network costs: parameters, and multiply-adds of one image."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from webdistill.models.device import device_of


def parameters(net: nn.Module) -> int:
    """Number of trainable and frozen weights, buffers not counted."""
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def multiply_adds(net: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image [1, 3, image_size, image_size] through all convolutions, linear layers and products
    of matrices, those of attention included. Not counted: bias, normalisation, activations. `net` stays as it was.
    """
    was_training = net.training
    device = device_of(net)
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    net.train(was_training)
    return counter.get_total_flops() // 2  # it counts a multiply-add as two operations
