"""How good the dictionary is: figures for metrics.json, and one row per prototype for clusters.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.prototypes.dictionary import Dictionary, Selected
from webdistill.clustering import Ints

DIGITS = 6
COLUMNS = (
    "prototype",
    "images",
    "prior",
    "mean_distance",
    "class_entropy",
    "top_class",
    "top_share",
)


@dataclass(frozen=True)
class Quality:
    """What there is to say of each cluster, all [N]."""

    sizes: Ints
    mean_distance: NDArray[np.float64]  # Euclidean to the centroid, in PCA space
    entropy: NDArray[np.float64]  # of the teacher's classes, nats: 0 = one class, log K = even
    top_class: Ints  # the most frequent class, the first of several
    top_share: NDArray[np.float64]


def judge(selected: Selected, dictionary: Dictionary) -> Quality:
    """Compare the clusters with each other and with the teacher's classes."""
    clusters, count = dictionary.clusters, len(dictionary.prior)
    sizes = np.bincount(clusters.labels, minlength=count)
    mix = class_mix(clusters.labels, selected.teacher_class, count)
    distance = np.bincount(clusters.labels, weights=clusters.distances, minlength=count)
    return Quality(sizes, distance / sizes, entropy(mix), mix.argmax(axis=1), mix.max(axis=1))


def class_mix(labels: Ints, teacher_class: Ints, count: int) -> NDArray[np.float64]:
    """[N, K] share of each class in each cluster; no cluster may be empty."""
    classes = int(teacher_class.max()) + 1
    pairs = labels.astype(np.int64) * classes + teacher_class
    mix = np.bincount(pairs, minlength=count * classes).reshape(count, classes)
    return mix / mix.sum(axis=1, keepdims=True)


def entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, K] -> [N], nats."""
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    found: NDArray[np.float64] = 0.0 - (share * logs).sum(axis=1)  # 0, not -0, for one class
    return found


def figures(quality: Quality, dictionary: Dictionary) -> dict[str, float]:
    """Of the whole dictionary, for metrics.json."""
    clusters, sizes = dictionary.clusters, quality.sizes
    return {
        "images": int(sizes.sum()),
        "sampled": dictionary.sampled,
        "prototypes": len(sizes),
        "explained_variance": round(dictionary.projection.explained, DIGITS),
        "inertia": round(float(np.square(clusters.distances, dtype=np.float64).sum()), 4),
        "smallest_cluster": int(sizes.min()),
        "median_cluster": float(np.median(sizes)),
        "largest_cluster": int(sizes.max()),
        "mean_class_entropy": round(float((quality.entropy * sizes).sum() / sizes.sum()), DIGITS),
        "iterations": clusters.iterations,
        "moved_in_last_iteration": clusters.moved,
        "empty_refilled": clusters.refilled,
    }


def write_clusters(quality: Quality, classes: Sequence[str], path: Path) -> None:
    """One row per prototype, in their order: the largest first."""
    total = int(quality.sizes.sum())
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for at, size in enumerate(quality.sizes.tolist()):
            measured = (size / total, quality.mean_distance[at], quality.entropy[at])
            prior, distance, mixed = (round(float(value), DIGITS) for value in measured)
            share = round(float(quality.top_share[at]), DIGITS)
            top = classes[quality.top_class[at]]
            writer.writerow((at, size, prior, distance, mixed, top, share))
