"""How far images are from what the teacher's batch normalisation saw when it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.distill import ranks

KEPT = 0.9  # share of what earlier rounds showed


class Memory(nn.Module):
    """Means and variances that earlier rounds of images showed to every BN layer of a network, fading (Fast, CMI).

    One round need not look like the training data by itself: with all rounds before it, it should.
    """

    seen: Tensor  # [], rounds

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        for place, norm in enumerate(norms(net)):
            for name, kept in (("mean", norm.running_mean), ("variance", norm.running_var)):
                assert kept is not None
                self.register_buffer(f"{name}{place}", torch.zeros_like(kept))
        self._last: dict[int, tuple[Tensor, Tensor]] = {}

    def blend(self, place: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """KEPT of what is remembered of layer `place` and the rest of what it sees now, which is noted."""
        self._last[place] = mean.detach(), variance.detach()
        if not self.seen:
            return mean, variance
        before = self.get_buffer(f"mean{place}"), self.get_buffer(f"variance{place}")
        return (
            KEPT * before[0] + (1 - KEPT) * mean,
            KEPT * before[1] + (1 - KEPT) * variance,
        )

    @torch.no_grad()
    def keep(self) -> None:
        """A round has ended: what was noted last is remembered."""
        for place, values in self._last.items():
            for name, now in zip(("mean", "variance"), values, strict=True):
                kept = self.get_buffer(f"{name}{place}")
                kept.copy_(KEPT * kept + (1 - KEPT) * now if self.seen else now)
        self._last = {}
        self.seen += 1


def norms(net: nn.Module) -> list[_BatchNorm]:
    """Its BN layers that know running statistics, in order."""
    found = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in found if norm.running_mean is not None]


Difference = tuple[Tensor, Tensor]  # mean_B - mu, var_B - sigma^2 of a layer's input, [C] each


@contextmanager
def statistics_gap(net: nn.Module, memory: Memory | None = None) -> Iterator[list[Tensor]]:
    """Collects ||mean_B - mu||_2 + ||var_B - sigma^2||_2 of every BN layer's input in forward passes made inside.

    With a `memory` mean and variance are those of the batch blended with what it remembers. The list is filled when
    the block ends.
    """
    gaps: list[Tensor] = []
    with differences(net, memory) as found:
        yield gaps
    gaps += [mean.norm() + variance.norm() for mean, variance in found]


def whole_gap(found: list[Difference]) -> Tensor:
    """||mean_B - mu||_2 + ||var_B - sigma^2||_2 [] with the channels of all layers in one vector."""
    means, variances = zip(*found, strict=True)
    return torch.cat(means).norm() + torch.cat(variances).norm()


@contextmanager
def differences(net: nn.Module, memory: Memory | None = None) -> Iterator[list[Difference]]:
    """Collects mean_B - mu and var_B - sigma^2 of every BN layer's input in forward passes made inside."""
    found: list[Difference] = []
    places = {norm: place for place, norm in enumerate(norms(net))}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        x = inputs[0].float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = ranks.var_mean(x, axes)
        if memory is not None:
            mean, variance = memory.blend(places[norm], mean, variance)
        found.append((mean - norm.running_mean, variance - norm.running_var))

    hooks = [norm.register_forward_pre_hook(note) for norm in places]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
