"""Is the card's normalisation the one that the teacher was trained with?

The first BatchNorm remembers mean and variance of what it saw in training. Real images, normalised rightly, give it
nearly the same; normalised wrongly, they do not. Training images usually were random crops with a black border, which
moves these statistics, so both kinds of view are tried and the better one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from webdistill.commands.check_teacher.findings import Finding
from webdistill.models.checkpoint import Card, Triple
from webdistill.models.classifier import Classifier

CLEARLY = (3.0, 0.3)  # another fits clearly better: that many times, and by that much
FOREIGN = 1.0  # distance from which on nothing fits
BORDER = 8  # the black border of a crop is a side / BORDER wide: 4 px of 32
BATCH_PIXELS = 2**18  # 256 images of 32 px, 5 of 224


@dataclass(frozen=True)
class Normalisation:
    """RGB in [0, 1] becomes (RGB - mean) / std."""

    name: str
    mean: Triple
    std: Triple


CANDIDATES = (
    Normalisation("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Normalisation("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Normalisation("CIFAR-10, std per image", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Normalisation("CIFAR-100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    Normalisation("-1 to 1", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalisation("none, 0 to 1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    Normalisation("none, 0 to 255", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
)


def check(net: Classifier, card: Card, images: NDArray[np.uint8]) -> Finding:
    """`images` [N, S, S, 3], real ones of any kind. Compares the card's normalisation with the usual ones."""
    about = "normalisation"
    layer = first_norm(net, images[:1])
    if layer is None:
        return Finding(
            "warn",
            about,
            "cannot be checked: the network has no BatchNorm that remembers its training images; a wrong mean or std "
            "shows as a low accuracy (--labels)",
        )
    assert layer.running_mean is not None  # first_norm looks for such
    assert layer.running_var is not None
    if not bool(layer.running_mean.any()) and bool((layer.running_var == 1).all()):
        return Finding(
            "warn",
            about,
            "cannot be checked: the statistics of the first BatchNorm are those of a new network; are these the "
            "weights of a trained one?",
        )
    own = Normalisation("the card's", card.mean, card.std)
    others = [n for n in CANDIDATES if not _same(n, own)]
    fits = {n: distance(net, layer, n, images) for n in (own, *others)}
    best = min(fits, key=lambda n: fits[n])
    details = tuple(
        f"{_number(fit):>7}  {n.name:<23}  {_values(n)}"
        for n, fit in sorted(fits.items(), key=lambda item: item[1])
    )
    times, much = CLEARLY
    if fits[own] > times * fits[best] and fits[own] - fits[best] > much:
        text = (
            f"'{best.name}' fits the teacher's first BatchNorm clearly better than the card's mean and std "
            f"(distance {_number(fits[best])}, the card's {_number(fits[own])}); if it was trained that way, put into "
            f"config.json {_values(best)}"
        )
        return Finding("warn", about, text, details)
    if fits[own] > FOREIGN:
        text = (
            f"no usual one fits: these {len(images)} images are unlike the teacher's training images, or its "
            "normalisation is an unusual one; compare config.json with the program that trained it"
        )
        return Finding("warn", about, text, details)
    text = f"no usual one fits clearly better than the card's (distances on {len(images)} images)"
    return Finding("ok", about, text, details)


class _EnoughError(Exception):
    """Ends a forward pass at the first BatchNorm: what follows is not needed."""


@torch.no_grad()
def _reach(net: Classifier, x: Tensor) -> tuple[nn.BatchNorm2d, Tensor] | None:
    """The first BatchNorm with running statistics that a pass meets, and its input [B, C, h, w]."""
    met: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def stop(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        met.append((layer, inputs[0]))
        raise _EnoughError

    layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    hooks = [layer.register_forward_pre_hook(stop) for layer in layers]
    try:
        net.features(x)
    except _EnoughError:
        return met[0]
    finally:
        for hook in hooks:
            hook.remove()
    return None


def first_norm(net: Classifier, images: NDArray[np.uint8]) -> nn.BatchNorm2d | None:
    """The BatchNorm that images [N, S, S, 3] meet first; None for networks without."""
    reached = _reach(net, _normalised(images, CANDIDATES[0]))
    return None if reached is None else reached[0]


def distance(
    net: Classifier, layer: nn.BatchNorm2d, by: Normalisation, images: NDArray[np.uint8]
) -> float:
    """How far the layer's input is from what it saw in training: the smaller of plain and cropped images'."""
    found, batch = [], max(1, BATCH_PIXELS // images.shape[1] ** 2)
    for view in (images, bordered(images)):
        total = square = torch.zeros(layer.num_features, dtype=torch.float64)
        count = 0
        for start in range(0, len(view), batch):
            reached = _reach(net, _normalised(view[start : start + batch], by))
            assert reached is not None
            x = reached[1].double()
            total, square = total + x.sum(dim=(0, 2, 3)), square + x.square().sum(dim=(0, 2, 3))
            count += x.numel() // layer.num_features
        mean = total / count
        found.append(gap(mean, square / count - mean**2, layer))
    return min(found)


def gap(mean: Tensor, variance: Tensor, layer: nn.BatchNorm2d) -> float:
    """Mean over channels of (m - m_r)^2 / v_r + ln(v / v_r)^2; m_r, v_r: running statistics, v both with BN's eps."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    known = layer.running_var.double() + layer.eps
    shift = (mean - layer.running_mean.double()).square() / known
    spread = ((variance.clamp(min=0) + layer.eps) / known).log().square()
    return float((shift + spread).mean())


def bordered(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Random crops [N, S, S, 3] of the images with a black border around them; the same ones every time."""
    count, side = images.shape[:2]
    border = side // BORDER
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    places = np.random.default_rng(0).integers(0, 2 * border + 1, (count, 2))
    return np.stack(
        [
            image[top : top + side, left : left + side]
            for image, (top, left) in zip(padded, places, strict=True)
        ]
    )


def _normalised(images: NDArray[np.uint8], by: Normalisation) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (by.mean, by.std))
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (x - mean) / std


def _same(one: Normalisation, other: Normalisation) -> bool:
    return bool(np.allclose((one.mean, one.std), (other.mean, other.std), rtol=0, atol=1e-3))


def _values(by: Normalisation) -> str:
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (by.mean, by.std))
    return f'"mean": [{mean}], "std": [{std}]'


def _number(fit: float) -> str:
    return f"{fit:.3f}" if fit < 100 else f"{fit:.0f}"
