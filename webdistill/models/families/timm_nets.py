"""Classification networks of timm, unchanged; without weights, but where `pretrained` is asked for them.

Those with NCHW maps are split with timm's own `forward_features` and `forward_head`. The others (vision transformers,
networks with NHWC maps) go through `wrap`: their pooled features count as maps of one position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor, nn

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier
from webdistill.models.families.wrapped import Split, Wrapped, nearest, probe, wrap

T = TypeVar("T")


def from_timm(name: str, num_classes: int, image_size: int | None) -> Classifier:
    """The network `timm.create_model(NAME)`. Raises UserError for an unknown name."""
    what = _known(name)
    try:
        net: Any = timm.create_model(name, pretrained=False, num_classes=num_classes)
    except Exception as error:  # an unknown tag, an architecture without a classifier, ...
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} cannot be built: {problem}") from None
    own = net.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    sides = (image_size or own,)
    tensors = net.state_dict(keep_vars=True)
    split = split_timm(net.eval(), sides, what)
    net.train()
    return wrap(net, num_classes, sides, what) if split is None else Wrapped(split, tensors).train()


def pretrained(name: str) -> dict[str, Tensor]:
    """timm's default weights of a network, under its names: from the cache of Hugging Face's hub, else from the web.

    Raises UserError when there are none or the web does not give them.
    """
    what = _known(name)
    try:
        found: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # no weights, no web, a wrong hash: each library below has its own
        problem = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(
            f"the weights of {what} cannot be loaded ({problem}); without the web get them elsewhere, name the file"
        ) from None
    return found


def _known(name: str) -> str:
    """The network as messages name it. Raises UserError for an unknown one."""
    if not timm.is_model(name):
        raise UserError(f"timm has no network '{name}'{nearest(name, timm.list_models())}")
    return f"timm:{name}"


class Body(nn.Module):
    """The layers that `forward_features` of a timm network uses."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x)


class Head(nn.Module):
    """The layers between the last maps and the classifier of a timm network, pooling included."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, maps: Tensor) -> Tensor:
        return self.net.forward_head(maps, pre_logits=True)


@torch.no_grad()
def split_timm(net: Any, sides: Sequence[int], what: str) -> Split | None:
    """None where the network (in eval mode) has no NCHW maps, or its head does not end in a linear layer."""
    fc = net.get_classifier() if hasattr(net, "get_classifier") else None
    if not isinstance(fc, nn.Linear) or not hasattr(net, "forward_head"):
        return None
    images, logits = probe(net, sides, what)
    maps, in_body = _children_used(net, lambda: net.forward_features(images))
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != net.num_features:
        return None
    penultimate, in_head = _children_used(net, lambda: net.forward_head(maps, pre_logits=True))
    if in_body & in_head or penultimate.ndim != 2 or not torch.equal(fc(penultimate), logits):
        return None
    children = dict(net.named_children())
    owner = next(n for n, m in children.items() if any(part is fc for part in m.modules()))
    in_head |= {owner}
    if in_body & in_head:
        return None
    head, body = _part(net, in_head), _part(net, children.keys() - in_head)
    head._parameters, head._buffers = {}, {}  # a network's own tensors belong to the body
    name = next(n for n, m in head.named_modules() if m is fc)
    parent, _, child = name.rpartition(".")
    setattr(head.get_submodule(parent), child, nn.Identity())
    return Split(Body(body), Head(head), nn.Identity(), fc, maps.shape[1])


def _part(net: nn.Module, children: Set[str]) -> nn.Module:
    """The same network with some of its children only."""
    part = copy.copy(net)
    part._modules = {name: module for name, module in net._modules.items() if name in children}
    return part


def _children_used(net: nn.Module, run: Callable[[], T]) -> tuple[T, set[str]]:
    """What `run` returns, and which children of the network, or layers inside them, it called."""
    used: set[str] = set()

    def note(child: str, *_: object) -> None:
        used.add(child)

    hooks = [
        module.register_forward_hook(partial(note, name.partition(".")[0]))
        for name, module in net.named_modules()
        if name
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return result, used
