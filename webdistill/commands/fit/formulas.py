"""What is measured, as pure functions of arrays; all arithmetic in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
BLOCK = 512  # rows of cosines in memory at a time


def softmax(logits: NDArray[np.floating]) -> Doubles:
    """Logits [N, K] -> probabilities [N, K]."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def entropy(p: Doubles) -> Doubles:
    """Distributions [..., K] -> -sum p log p in nats [...]; 0 log 0 = 0."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def effective_classes(counts: Numbers) -> float:
    """Images per class [K] -> exp of the entropy of their shares: K when all are equal, 1 when one has them all."""
    return float(np.exp(entropy(counts / counts.sum())))


def shift(mean: Doubles, own_mean: Doubles, own_var: Doubles, eps: float) -> float:
    """Mean over channels [C] of |mean - own_mean| / sqrt(own_var + eps): in standard deviations of the training."""
    return float((np.abs(mean - own_mean) / np.sqrt(own_var + eps)).mean())


def log_ratio(var: Doubles, own_var: Doubles, eps: float) -> float:
    """Mean over channels [C] of |log((var + eps) / (own_var + eps))|; log 2 = twice or half the variance."""
    return float(np.abs(np.log((var + eps) / (own_var + eps))).mean())


def divergence(
    mean: Doubles, var: Doubles, own_mean: Doubles, own_var: Doubles, eps: float
) -> float:
    """Mean over channels [C] of the symmetric KL of two normal distributions, (KL(a||b) + KL(b||a)) / 2, in nats.

    With a, b the variances + eps and d the difference of the means: ((a + d^2) / b + (b + d^2) / a - 2) / 4.
    """
    a, b, square = var + eps, own_var + eps, (mean - own_mean) ** 2
    return float((((a + square) / b + (b + square) / a - 2) / 4).mean())


def agreement(ours: Numbers, theirs: Numbers, classes: int) -> tuple[float, Doubles]:
    """Share of images [N] with the same class in both, and per class k of `theirs` the share that is k in `ours`, too.

    NaN for a class that `theirs` has no image of.
    """
    same = ours == theirs
    counts = np.bincount(theirs, minlength=classes)
    hits = np.bincount(theirs[same], minlength=classes)
    per_class = np.full(classes, np.nan)
    np.divide(hits, counts, out=per_class, where=counts > 0)
    return float(same.mean()), per_class


def nearest_distance(queries: NDArray[np.floating], references: NDArray[np.floating]) -> float:
    """Mean over queries [Q, d] of 1 - cosine to the nearest of the references [R, d]; 1 for a zero vector."""
    unit = _unit(references).T
    best = [
        (_unit(queries[start : start + BLOCK]) @ unit).max(axis=1)
        for start in range(0, len(queries), BLOCK)
    ]
    return float(1 - np.concatenate(best).mean())


def novelty(features: NDArray[np.floating]) -> tuple[float, float]:
    """Do more images still bring something new? Features [N, d] in random order, N >= 6 -> (distance, gain).

    The last third asks for its nearest image among the first N/3 and among twice as many: `distance` is the mean
    cosine distance to the latter, `gain` by what share it is smaller than to the former. 0 when both are 0.
    """
    third = len(features) // 3
    asked = features[2 * third :]
    half = nearest_distance(asked, features[:third])
    whole = nearest_distance(asked, features[: 2 * third])
    return max(whole, 0.0), 1 - whole / half if half > 1e-9 else 0.0


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, p = 1.959963984540054, hits / total
    middle = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - half) / scale, (middle + half) / scale


def _unit(rows: NDArray[np.floating]) -> Doubles:
    x = rows.astype(np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm > 0))
