"""Networks of others as a Classifier: body, pooling, neck, last linear layer.

`body` gives maps [B, C, h, w], or the pooled features [B, C] where a network has no such maps or hides them; these
count as maps of one position. The original tensors are kept, not copied, and what the library called each is
remembered, so that a state dict saved from the library's own network loads as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier, GlobalAverage

SIDES = (224, 64, 32)  # tried where nobody says how large a network's images are


@dataclass(frozen=True)
class Split:
    """A network taken apart; the parts share no module."""

    body: nn.Module
    pooling: nn.Module
    neck: nn.Module
    fc: nn.Linear
    channels: int  # of the maps


class Wrapped(Classifier):
    """The parts put together. `tensors`: the state dict (keep_vars=True) of the network before it was taken apart."""

    def __init__(self, split: Split, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.body, self.pooling, self.neck, self.fc = (
            split.body,
            split.pooling,
            split.neck,
            split.fc,
        )
        self._channels = split.channels
        names = {id(tensor): name for name, tensor in self.state_dict(keep_vars=True).items()}
        self.library_names = {
            theirs: names[id(tensor)] for theirs, tensor in tensors.items() if id(tensor) in names
        }

    @property
    def channels(self) -> int:
        return self._channels

    def features(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out if out.ndim == 4 else out[:, :, None, None]


class Unit(nn.Linear):
    """The identity matrix in the place of a last layer: [B, K] -> [B, K]. It has no parameter and no stored tensor."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size, bias=False)
        del self.weight
        self.register_buffer("weight", torch.eye(size), persistent=False)


def wrap(net: nn.Module, num_classes: int, sides: Sequence[int], what: str) -> Wrapped:
    """Any network: its last linear layer becomes `fc`, the input of that layer is the output of `body`.

    Which layer that is, one forward pass tells: the one whose output is the network's. A network without such a layer
    (a convolution or an average of two heads at the end) is all `body`: its logits count as features, and `fc` is the
    identity. `sides`: image sizes to try it with. Raises UserError for a network that gives no logits.
    """
    tensors = net.state_dict(keep_vars=True)
    net.eval()
    images, logits = probe(net, sides, what)
    check_logits(logits, num_classes, what)
    for name, fc in _last_linear(net, images, logits):
        parent, _, child = name.rpartition(".")
        owner = net.get_submodule(parent)
        setattr(owner, child, nn.Identity())
        if _ends_in(net, fc, images, logits):
            split = Split(net, GlobalAverage(), nn.Identity(), fc, fc.in_features)
            return Wrapped(split, tensors).train()
        setattr(owner, child, fc)  # something follows the layer, though it left these logits alone
    split = Split(net, GlobalAverage(), nn.Identity(), Unit(num_classes), num_classes)
    return Wrapped(split, tensors).train()


@torch.no_grad()
def _ends_in(net: nn.Module, fc: nn.Linear, images: Tensor, logits: Tensor) -> bool:
    """Whether the network, without its last layer, gives what that layer makes the logits of."""
    try:
        pooled = net(images)
    except Exception:  # e.g. a reshape to the number of classes
        return False
    return pooled.shape == (1, fc.in_features) and torch.equal(fc(pooled), logits)


@torch.no_grad()
def probe(net: nn.Module, sides: Sequence[int], what: str) -> tuple[Tensor, Tensor]:
    """The first size that the network (in eval mode) takes -> one image of noise [1, 3, S, S], its output."""
    noise = torch.Generator().manual_seed(0)
    problems = []
    for side in sides:
        images = torch.randn(1, 3, side, side, generator=noise)
        try:
            return images, net(images)
        except Exception as error:  # each network refuses in its own way; the next size is tried
            problems.append(f"{side} px: {(str(error) or type(error).__name__).splitlines()[0]}")
    raise UserError(f"{what} takes no image of {'; of '.join(problems)}")


def check_logits(logits: object, num_classes: int, what: str) -> None:
    """Raises UserError unless the output for one image is [1, num_classes] and not yet a distribution."""
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UserError(
            f"{what} must give logits [B, {num_classes}]; for one image it gave {shape}"
        )
    if bool((logits >= 0).all()) and abs(float(logits.sum()) - 1) < 1e-3:
        raise UserError(f"{what} gives probabilities; it must give logits: leave its softmax out")


@torch.no_grad()
def _last_linear(net: nn.Module, images: Tensor, logits: Tensor) -> list[tuple[str, nn.Linear]]:
    """The linear layers whose output is the logits, with their names; the last one called comes first."""
    outputs: list[tuple[str, nn.Linear, Tensor]] = []

    def note(name: str, layer: nn.Linear, _inputs: object, output: Tensor) -> None:
        outputs.append((name, layer, output))

    hooks = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear) and name
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    return [
        (name, layer)
        for name, layer, output in reversed(outputs)
        if torch.equal(output.reshape(-1), logits.reshape(-1))
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message: `; did you mean resnet50?`, or nothing."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
