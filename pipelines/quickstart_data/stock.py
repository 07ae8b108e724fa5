"""The pictures the small web is made of: each source image is used once, and none has a natural twin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


def twins(images: Bytes, others: Bytes, threshold: float) -> Flags:
    """[N] bool: image n looks like another of `images` or one of `others`, as it is or mirrored.

    CIFAR-10 holds many natural near-duplicates. Left in, a filter that finds them would be counted as wrong.
    Similarity is the correlation of 16 x 16 thumbnails, -1 to 1. images [N, 32, 32, 3], others [M, 32, 32, 3].
    """
    plain, mirrored = _descriptors(images), _descriptors(images[:, :, ::-1])
    found = np.zeros(len(images), bool)
    theirs = _descriptors(others)
    for start in range(0, len(images), 1000):
        rows = slice(start, start + 1000)
        for mine in (plain[rows], mirrored[rows]):
            within = mine @ plain.T
            within[np.arange(len(within)), np.arange(len(within)) + start] = -1
            found[rows] |= (within > threshold).any(axis=1) | (mine @ theirs.T > threshold).any(
                axis=1
            )
    return found


def _descriptors(images: Bytes) -> NDArray[np.float32]:
    small = images.reshape(len(images), 16, 2, 16, 2, 3).mean(axis=(2, 4), dtype=np.float32)
    flat = small.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.maximum(norm, 1e-6)
    return unit


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `shares` that add up to `total` (largest remainders)."""
    exact = np.asarray(shares, np.float64) / sum(shares) * total
    whole = np.floor(exact).astype(int)
    rest = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[rest] += 1
    return [int(count) for count in whole]


def long_tail(classes: int, imbalance: float, rng: Generator) -> list[float]:
    """One share per class, geometric from 1 down to 1 / imbalance, in random order."""
    shares = imbalance ** -np.linspace(0, 1, classes)
    return [float(share) for share in rng.permutation(shares)]


class Stock:
    """Unused source images by class. `indices` are positions in the source; each is handed out once."""

    def __init__(
        self, indices: NDArray[np.int64], labels: Bytes, classes: int, rng: Generator
    ) -> None:
        order = rng.permutation(indices)
        self._unused = [[int(i) for i in order[labels[order] == c]] for c in range(classes)]

    def left(self) -> list[int]:
        """How many images of each class are still unused."""
        return [len(indices) for indices in self._unused]

    def take(self, label: int) -> int:
        """An unused image of one class. Raises RuntimeError when there is none."""
        if not self._unused[label]:
            raise RuntimeError(
                f"class {label} has no source image left; lower web.counts or web.imbalance in params.yaml"
            )
        return self._unused[label].pop()

    def take_other(self, label: int, look_alikes: Sequence[int], rng: Generator) -> int:
        """An unused image of another class than `label`; of one of `look_alikes` if there are any and any left."""
        left = np.array(self.left(), np.float64)
        left[label] = 0
        if any(left[c] > 0 for c in look_alikes):
            left = np.where(np.isin(np.arange(len(left)), look_alikes), left, 0)
        if left.sum() == 0:
            raise RuntimeError("no source image left; lower web.counts in params.yaml")
        return self.take(int(rng.choice(len(left), p=left / left.sum())))
