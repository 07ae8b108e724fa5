"""EfficientNet-Lite2 made smaller in two ways; its last maps keep their 1,280 channels.

distill.student: nets.small_lite2:short    one block of every kind
distill.student: nets.small_lite2:thin     every block, with about a third of its expanded channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from webdistill.models.families.timm_nets import split_timm
from webdistill.models.families.wrapped import Wrapped

import timm  # isort: skip  (after webdistill, which lets torchvision import)

WHOLE = "tf_efficientnet_lite2"
SHARE = 0.28  # of the expanded channels that `thin` keeps
STEP = 8  # channels are a multiple of it


def short(num_classes: int) -> nn.Module:
    """The first of the 1 to 5 blocks of every stage: the others add to what they are given."""
    net = timm.create_model(WHOLE, num_classes=num_classes)
    net.blocks = nn.Sequential(*(nn.Sequential(stage[0]) for stage in net.blocks))
    return _wrapped(net, "the short Lite2")


def thin(num_classes: int) -> nn.Module:
    """Every block, with a share of the channels between its convolutions."""
    net = timm.create_model(WHOLE, num_classes=num_classes)
    for _, block in _expanding(net):
        _narrow(block, kept(block.conv_dw.out_channels))
    return _wrapped(net, "the thin Lite2")


def kept(channels: int) -> int:
    """Expanded channels of a block that `thin` keeps."""
    return max(round(SHARE * channels / STEP), 1) * STEP


def thinned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the whole network's strongest expanded channels, which `thin` has.

    A channel's strength: the scale of its last normalisation times the norm of the weights that read it.
    """
    net = timm.create_model(WHOLE)
    found = dict(tensors)
    for name, block in _expanding(net):
        prefix = f"{name}."
        width = block.conv_dw.out_channels
        strength = tensors[f"{prefix}bn2.weight"].abs() * tensors[
            f"{prefix}conv_pwl.weight"
        ].flatten(2).norm(dim=(0, 2))
        rows = strength.sort(descending=True, stable=True).indices[: kept(width)].sort().values
        for key, tensor in tensors.items():
            if not key.startswith(prefix) or not tensor.ndim:
                continue
            if key == f"{prefix}conv_pwl.weight":
                found[key] = tensor.index_select(1, rows)
            elif key.split(".")[-2] in ("conv_pw", "bn1", "conv_dw", "bn2"):
                found[key] = tensor.index_select(0, rows)
    return {name: tensor.clone() for name, tensor in found.items()}


def _expanding(net: Any) -> list[tuple[str, Any]]:
    return [(name, each) for name, each in net.named_modules() if hasattr(each, "conv_pwl")]


def _narrow(block: Any, width: int) -> None:
    """Fewer channels between the block's first and last convolution."""

    def like(conv: Any, inputs: int, outputs: int, groups: int) -> nn.Module:
        return type(conv)(
            inputs,
            outputs,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            groups,
            conv.bias is not None,
        )

    first, middle, last = block.conv_pw, block.conv_dw, block.conv_pwl
    block.conv_pw = like(first, first.in_channels, width, 1)
    block.conv_dw = like(middle, width, width, width)
    block.conv_pwl = like(last, width, last.out_channels, 1)
    for name in ("bn1", "bn2"):
        norm = getattr(block, name)
        fresh = nn.BatchNorm2d(width, norm.eps, norm.momentum)
        setattr(block, name, _renewed(norm, fresh))


def _renewed(norm: Any, fresh: nn.BatchNorm2d) -> Any:
    """timm's normalisation, activation included, over another number of channels."""
    norm.num_features = fresh.num_features
    norm.weight, norm.bias = fresh.weight, fresh.bias
    norm.running_mean, norm.running_var = fresh.running_mean, fresh.running_var
    return norm


def _wrapped(net: Any, what: str) -> nn.Module:
    tensors = net.state_dict(keep_vars=True)
    with torch.no_grad():
        split = split_timm(net.eval(), (96,), what)
    assert split is not None
    return Wrapped(split, tensors).train()
