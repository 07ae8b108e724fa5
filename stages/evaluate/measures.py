"""Measures of a classifier as pure functions of logits, probabilities and labels; all arithmetic in float64.

Shapes: N images, K classes; `logits` and `probabilities` are [N, K], `labels` and `predictions` [N] int.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """Reliability per confidence bin; `accuracy` and `confidence` are means, 0 where `count` is 0."""

    upper: Floats  # [bins], right edge of each bin
    confidence: Floats  # [bins]
    accuracy: Floats  # [bins]
    count: Ints  # [bins]

    @property
    def error(self) -> float:
        """Expected calibration error: sum_b count_b / N * |accuracy_b - confidence_b|."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.count * gaps).sum() / self.count.sum())


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Logits [N, K] -> log probabilities [N, K]."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def top_k(logits: NDArray[np.floating], labels: Ints, k: int) -> float:
    """Share of images whose label is among the k largest logits; among equal logits the lower class wins."""
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def agreement(predictions: Ints, others: Ints) -> float:
    """Share of images on which two classifiers name the same class."""
    return float((predictions == others).mean())


def at_chance(share: float, images: int, classes: int) -> bool:
    """Whether guessing one of K equally likely classes would do as well, within two standard errors."""
    chance = 1 / classes
    return share <= chance + 2 * math.sqrt(chance * (1 - chance) / images)


def negative_log_likelihood(log_probabilities: Floats, labels: Ints) -> float:
    """Mean of -log p(label), in nats."""
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Mean over images of sum_k (p_k - [k = label])^2: 0 is perfect, 2 the worst."""
    own = probabilities[np.arange(len(labels)), labels]
    return float((np.square(probabilities).sum(axis=1) - 2 * own + 1).mean())


def calibration(probabilities: Floats, labels: Ints, bins: int) -> Calibration:
    """Reliability in equal-width bins (b/bins, (b+1)/bins] of the top probability (Guo et al. 2017, eq. 5)."""
    confidence = probabilities.max(axis=1)
    hit = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    safe = np.maximum(count, 1)
    return Calibration(
        upper=np.arange(1, bins + 1) / bins,
        confidence=np.bincount(index, weights=confidence, minlength=bins) / safe,
        accuracy=np.bincount(index, weights=hit, minlength=bins) / safe,
        count=count.astype(np.int64),
    )


def class_accuracy(predictions: Ints, labels: Ints, classes: int) -> tuple[Floats, Ints]:
    """Accuracy [K] and number of test images [K] of every class; accuracy is 0 where there are none."""
    count = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    return hits / np.maximum(count, 1), count.astype(np.int64)
