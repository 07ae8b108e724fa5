"""From similar pairs to decisions: copies of test images, and groups of near-duplicates of which one stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.filter.rules import Mask, Verdict, leak
from webdistill.images.hashes import Pairs, find_pairs

Bytes = NDArray[np.uint8]


def leaks(
    thumbnails: Bytes, test: Bytes, test_ids: Sequence[str], threshold: float, threads: int
) -> Verdict:
    """Each image's most similar test image; value 0 where none comes near the threshold."""
    pairs = find_pairs(thumbnails, test, threshold, threads=threads)
    similarity = np.zeros(len(thumbnails))
    nearest = np.full(len(thumbnails), -1)
    for image, other, value in zip(pairs.query, pairs.reference, pairs.similarity, strict=True):
        if value > similarity[image]:
            similarity[image], nearest[image] = value, other
    others = [test_ids[i] if i >= 0 else "" for i in nearest]
    return leak(similarity, others, threshold)


def duplicates(
    thumbnails: Bytes,
    ids: Sequence[str],
    scores: NDArray[np.float64],
    alive: Mask,
    threshold: float,
    threads: int,
) -> Verdict:
    """Among the images still alive, every group of near-duplicates keeps its best-scored member."""
    rows = np.flatnonzero(alive)
    pairs = find_pairs(thumbnails[rows], None, threshold, threads=threads)
    pairs = Pairs(rows[pairs.query], rows[pairs.reference], pairs.similarity)
    return keep_one(pairs, ids, scores, threshold)


def keep_one(
    pairs: Pairs, ids: Sequence[str], scores: NDArray[np.float64], threshold: float
) -> Verdict:
    """Groups are chains of pairs (a like b, b like c: one group). The best score stays, on a tie the smallest id.

    `value` of a dropped image is its similarity to its most similar group member, `other` the image that stayed.
    """
    parent = np.arange(len(ids))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    value = np.zeros(len(ids))
    for a, b, similarity in zip(pairs.query, pairs.reference, pairs.similarity, strict=True):
        parent[root(int(b))] = root(int(a))
        value[a], value[b] = max(value[a], similarity), max(value[b], similarity)
    members: dict[int, list[int]] = {}
    for i in np.unique(np.concatenate([pairs.query, pairs.reference])):
        members.setdefault(root(int(i)), []).append(int(i))
    drop, other = np.zeros(len(ids), bool), [""] * len(ids)
    for group in members.values():
        stays = min(group, key=lambda i: (-scores[i], ids[i]))
        for i in group:
            if i != stays:
                drop[i], other[i] = True, ids[stays]
    return Verdict("duplicate", drop, value, threshold, other)
