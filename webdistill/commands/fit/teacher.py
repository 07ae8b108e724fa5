"""The teacher's answers to images, and what its BatchNorm layers see while it gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from webdistill.commands.fit import formulas
from webdistill.commands.fit.formulas import Doubles
from webdistill.models.checkpoint import Network

BATCH_PIXELS = 2**18  # 256 images of 32 px, 5 of 224
Watch = Callable[[Iterable[slice], int], Iterable[slice]]  # (batches, images) -> the same batches


@dataclass
class Moments:
    """Running mean and variance per channel of everything seen so far (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))  # sum of squared deviations

    def add(self, x: Tensor) -> None:
        """Activations [B, C, ...]; every position counts."""
        rows = x.transpose(0, 1).flatten(1)
        var, mean = (part.double() for part in torch.var_mean(rows, dim=1, correction=0))
        new = rows.shape[1]
        total = self.count + new
        difference = mean - self.mean
        self.mean = self.mean + difference * (new / total)
        self.squares = self.squares + var * new + difference**2 * (self.count * new / total)
        self.count = total

    @property
    def var(self) -> Doubles:
        return np.asarray((self.squares / self.count).numpy())


@dataclass(frozen=True)
class Layer:
    """A BatchNorm: distance between what it saw here and what it remembers of the teacher's training."""

    name: str
    shift: float  # standard deviations
    log_ratio: float  # |log| of the variances' ratio
    divergence: float  # symmetric KL, nats


@dataclass(frozen=True)
class Answers:
    """logits [N, K], features [N, d], and one Layer per BatchNorm in the order of the network."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    layers: tuple[Layer, ...]


def ask(network: Network, images: NDArray[np.uint8], watch: Watch) -> Answers:
    """Images [N, S, S, 3], normalised as the card says. The network is left as it was, BatchNorm's memory included."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.card.mean, network.card.std))
    batch = max(1, BATCH_PIXELS // images.shape[1] ** 2)
    starts = range(0, len(images), batch)
    parts = [slice(start, min(start + batch, len(images))) for start in starts]
    logits, features = [], []
    network.net.eval()
    with torch.inference_mode(), watched(network.net) as moments:
        for part in watch(parts, len(images)):
            pixels = torch.from_numpy(images[part]).permute(0, 3, 1, 2)
            pooled = network.net.pool(network.net.features((pixels.float() / 255 - mean) / std))
            logits.append(network.net.answer(pooled).numpy())
            features.append(pooled.numpy())
    layers = tuple(_layers(network.net, moments))
    return Answers(np.concatenate(logits), np.concatenate(features), layers)


@contextmanager
def watched(net: nn.Module) -> Iterator[dict[str, Moments]]:
    """Name of each BatchNorm that has a memory -> the moments of its inputs, filled while the context lasts."""
    seen: dict[str, Moments] = {}

    def note(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(name, Moments()).add(inputs[0])

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in _norms(net).items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _norms(net: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def _layers(net: nn.Module, moments: dict[str, Moments]) -> Iterator[Layer]:
    for name, module in _norms(net).items():
        if name not in moments:
            continue  # a branch that the forward pass does not take
        found = moments[name]
        assert module.running_mean is not None
        assert module.running_var is not None
        mean, var = found.mean.numpy(), found.var
        own_mean, own_var = (t.double().numpy() for t in (module.running_mean, module.running_var))
        yield Layer(
            name,
            formulas.shift(mean, own_mean, own_var, module.eps),
            formulas.log_ratio(var, own_var, module.eps),
            formulas.divergence(mean, var, own_mean, own_var, module.eps),
        )
