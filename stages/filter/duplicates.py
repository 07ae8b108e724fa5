"""From similar pairs to decisions: copies of test images, and groups of near-duplicates of which one stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.filter.rules import Doubles, Verdict, leak
from stages.filter.thumbnails import Subset, Thumbnails
from webdistill.images.copies import Confirm, Pairs, find_pairs, groups
from webdistill.images.hashes import Bytes, Rows


def leaks(
    thumbnails: Thumbnails,
    test: Bytes,
    test_ids: Sequence[str],
    threshold: float,
    threads: int,
    confirm: Confirm | None = None,
) -> Verdict:
    """Each image's most similar test image; value 0 where none comes near the threshold."""
    pairs = find_pairs(thumbnails, test, threshold, confirm=confirm, threads=threads)
    similarity = np.zeros(len(thumbnails))
    nearest = np.full(len(thumbnails), -1)
    for image, other, value in zip(pairs.query, pairs.reference, pairs.similarity, strict=True):
        if value > similarity[image]:
            similarity[image], nearest[image] = value, other
    others = [test_ids[i] if i >= 0 else "" for i in nearest]
    return leak(similarity, others, threshold)


def duplicates(
    thumbnails: Thumbnails,
    ids: Sequence[str],
    scores: Doubles,
    rows: Rows,
    threshold: float,
    threads: int,
    also: tuple[Rows, Rows] | None = None,
    confirm: Confirm | None = None,
) -> Verdict:
    """Among the images `rows`, ascending, every group of near-duplicates keeps its best-scored member.

    `also`: pairs of rows that are compared whatever their descriptors say; `confirm`: a second look at pairs of rows.
    """
    inner = (
        None if also is None else (np.searchsorted(rows, also[0]), np.searchsorted(rows, also[1]))
    )

    def outer(pairs: Pairs) -> Pairs:
        return Pairs(rows[pairs.query], rows[pairs.reference], pairs.similarity)

    second = None if confirm is None else lambda pairs: confirm(outer(pairs))
    some = Subset(thumbnails, rows)
    pairs = find_pairs(some, None, threshold, also=inner, confirm=second, threads=threads)
    return keep_one(outer(pairs), ids, scores, threshold)


def keep_one(pairs: Pairs, ids: Sequence[str], scores: Doubles, threshold: float) -> Verdict:
    """Groups are chains of pairs (a like b, b like c: one group). The best score stays, on a tie the smallest id.

    `value` of a dropped image is its similarity to its most similar group member, `other` the image that stayed.
    """
    value = np.zeros(len(ids))
    for side in (pairs.query, pairs.reference):
        np.maximum.at(value, side, pairs.similarity)
    group = groups(pairs, len(ids))
    members = np.unique(np.concatenate([pairs.query, pairs.reference])).tolist()
    members.sort(key=lambda row: (group[row], -scores[row], ids[row]))
    drop, other, stays = np.zeros(len(ids), bool), [""] * len(ids), -1
    for row in members:
        if stays >= 0 and group[row] == group[stays]:
            drop[row], other[row] = True, ids[stays]
        else:
            stays = row
    return Verdict("duplicate", drop, value, threshold, other)
