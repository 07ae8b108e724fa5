"""Networks of others as a Classifier: body, pooling, neck, last linear layer.

`body` gives maps [B, C, h, w], or the pooled features [B, C] where a network has no such maps or hides them; these
count as maps of one position. The original tensors are kept, not copied, and what the library called each is
remembered, so that a state dict saved from the library's own network loads as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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

    views = False  # whether the body flattens maps by `view`

    def __init__(self, split: Split, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.body, self.pooling, self.neck, self.fc = (
            split.body,
            split.pooling,
            split.neck,
            split.fc,
        )
        self._channels = split.channels
        names: dict[int, list[str]] = {}  # a tensor of layers that are registered twice has several
        for name, tensor in self.state_dict(keep_vars=True).items():
            names.setdefault(id(tensor), []).append(name)
        self.library_names = {
            theirs: own.pop(0) if len(own) > 1 else own[0]
            for theirs, tensor in tensors.items()
            if (own := names.get(id(tensor)))
        }

    @property
    def channels(self) -> int:
        return self._channels

    def features(self, x: Tensor) -> Tensor:
        with _AnyOrder() if self.views else nullcontext():
            out = self.body(x)
        return out if out.ndim == 4 else out[:, :, None, None]


class _AnyOrder(TorchFunctionMode):
    """Inside, `view` copies where it must: it refuses to flatten maps in channels_last, the order of networks here."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is Tensor.view and not kwargs and not isinstance(args[-1], torch.dtype):
            function = Tensor.reshape
        return function(*args, **(kwargs or {}))


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
    net.eval()
    images, logits = probe(net, sides, what)
    check_logits(logits, num_classes, what)
    views = _refuses_channels_last(net, images)
    tensors = net.state_dict(keep_vars=True)
    wrapped = Wrapped(_split(net, num_classes, images, logits), tensors)
    wrapped.views, wrapped.logits_alone = views, isinstance(wrapped.fc, Unit)
    return wrapped.train()


def _split(net: nn.Module, num_classes: int, images: Tensor, logits: Tensor) -> Split:
    for places, fc in _last_linear(net, images, logits):
        _put(net, places, nn.Identity())
        if _ends_in(net, fc, images, logits):
            return Split(net, GlobalAverage(), nn.Identity(), fc, fc.in_features)
        _put(net, places, fc)  # something follows the layer, though it left these logits alone
    return Split(net, GlobalAverage(), nn.Identity(), Unit(num_classes), num_classes)


@torch.no_grad()
def _refuses_channels_last(net: nn.Module, images: Tensor) -> bool:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    try:
        net(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return True
    finally:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
    return False


def _put(net: nn.Module, places: Sequence[str], layer: nn.Module) -> None:
    for place in places:
        parent, _, child = place.rpartition(".")
        setattr(net.get_submodule(parent), child, layer)


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
def _last_linear(
    net: nn.Module, images: Tensor, logits: Tensor
) -> list[tuple[list[str], nn.Linear]]:
    """The linear layers whose output is the logits, with all their names; the last one called comes first."""
    outputs: list[tuple[nn.Linear, Tensor]] = []

    def note(layer: nn.Linear, _inputs: object, output: Tensor) -> None:
        outputs.append((layer, output))

    names: dict[nn.Linear, list[str]] = {}
    for name, layer in net.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.Linear) and name:
            names.setdefault(layer, []).append(name)
    hooks = [layer.register_forward_hook(note) for layer in names]
    net(images)
    for hook in hooks:
        hook.remove()
    return [
        (names[layer], layer)
        for layer, output in reversed(outputs)
        if torch.equal(output.reshape(-1), logits.reshape(-1))
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message: `; did you mean resnet50?`, or nothing."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
