"""Selection rules: pure functions of (id, teacher class, doubt), whatever order images come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scored:
    """What a rule sees of the eligible images, in ascending order of id."""

    ids: NDArray[np.str_]  # [n]
    teacher_class: Ints  # [n] argmax of the teacher's logits
    doubt: Floats  # [n] float64, -log of the largest softmax probability, >= 0


def confidence(logits: Floats) -> tuple[Ints, Floats]:
    """Logits [n, K] -> (argmax [n] int32, doubt [n] float64 = -log max softmax).

    Doubt and not probability: with float32 probabilities every image above 0.9999999 would tie at
    1, and then the order of ids would decide among the most confident images.
    """
    z = logits.astype(np.float64)
    best = z.argmax(axis=1)
    rows = np.arange(len(z))
    odds = np.exp(z - z[rows, best][:, None])
    odds[rows, best] = 0.0
    return best.astype(np.int32), np.log1p(odds.sum(axis=1))


def amount(budget: float, eligible: int) -> int:
    """Images a budget means: an int is a count, at most all; a float a share, at least one."""
    if isinstance(budget, int):
        return min(budget, eligible)
    return min(eligible, max(1, int(budget * eligible + 0.5)))


def quotas(available: Ints, budget: int) -> Ints:
    """Images to take per class [K] of those available [K]: min(budget, all), as even as possible.

    Classes with too few images give all they have; what they leave unused is spread evenly over the
    others, and the last images that cannot be spread evenly go to the classes with the lowest
    index.
    """
    taken = np.zeros_like(available)
    left = min(budget, int(available.sum()))
    while left:
        hungry = np.flatnonzero(taken < available)
        each = left // len(hungry)
        if each == 0:
            taken[hungry[:left]] += 1
            break
        gift = np.minimum(each, available[hungry] - taken[hungry])
        taken[hungry] += gift
        left -= int(gift.sum())
    return taken


def rank_within_class(teacher_class: Ints, doubt: Floats) -> Ints:
    """[n] int32: 0 = most confident image of its class; equal doubts rank in the order of ids."""
    order = np.lexsort((np.arange(len(doubt)), doubt, teacher_class))
    ordered = teacher_class[order]
    rank = np.empty(len(doubt), dtype=np.int32)
    rank[order] = np.arange(len(doubt)) - np.searchsorted(ordered, ordered)
    return rank


def choose(rule: str, scored: Scored, budget: int, classes: int, seed: int) -> Ints:
    """Positions of the selected images in `scored`, ascending.

    Selections of one rule are nested: a smaller budget selects a subset of what a larger one does,
    up to the last uneven images of `balanced`.
    """
    total = len(scored.ids)
    match rule:
        case "all":
            return np.arange(total)
        case "random":
            return np.sort(np.random.default_rng(seed).permutation(total)[:budget])
        case "confident":
            return np.sort(np.argsort(scored.doubt, kind="stable")[:budget])
        case "balanced":
            quota = quotas(np.bincount(scored.teacher_class, minlength=classes), budget)
            rank = rank_within_class(scored.teacher_class, scored.doubt)
            return np.flatnonzero(rank < quota[scored.teacher_class])
        case _:
            raise ValueError(f"unknown rule {rule!r}")
