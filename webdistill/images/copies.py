"""Pairs of images that show the same picture, in a set or between two sets.

1. Candidates: coarse descriptors of the centre of every image (webdistill.images.hashes) are searched for those of
   each query at several zooms, as it is and mirrored. Small sets are searched exactly, large ones through inverted
   lists (webdistill.images.neighbours), where the effort per image does not grow with the set but for the lists'
   number, 4 sqrt(N). Other sources may add candidates (`also`).
2. Verdict: `hashes.similarity` of every candidate pair, which is exact.

An image with too many candidates has only its FEW best checked, so that a clump of 100,000 almost equal images costs
no 10^10 comparisons, and is asked again in the next round: there one image stands for all that were found to be the
same picture, and the clump has shrunk to a few. In the end they are one group, whichever of its pairs were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from webdistill.images.hashes import (
    CENTRE,
    COARSE,
    ZOOMS,
    Bytes,
    Doubles,
    Floats,
    Numbers,
    Rows,
    centre,
    pictures,
    similarity,
    views,
)
from webdistill.images.neighbours import Index, blocks, sample_size, side_by_side

EXACT = 20_000  # images up to whose square pairs are searched exactly
ROUNDS = 8  # at most; each but the first asks only images that had too many candidates
CHECKED = 256  # pairs checked at a time by a thread
FEW = 8  # candidates checked of an image that has too many
ROUNDING = 1e-4  # more than float32 loses: what is further below the threshold needs no float64


class Thumbnails(Protocol):
    """uint8 [N, S, S, 3]: an array, or something that reads rows when asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Rows, /) -> Bytes: ...


@dataclass(frozen=True)
class Pairs:
    """Matches, sorted by query, then reference: row numbers and similarity, -1 to 1, of pair p."""

    query: Rows
    reference: Rows
    similarity: Doubles

    def where(self, keep: NDArray[np.bool_]) -> Pairs:
        """Those of a mask [P]."""
        return Pairs(self.query[keep], self.reference[keep], self.similarity[keep])


Confirm = Callable[[Pairs], NDArray[np.bool_]]  # -> mask [P]


@dataclass(frozen=True)
class Effort:
    """Up to `limit` candidates per image, with a coarse inner product of at least `floor`, seen at these `zooms`."""

    limit: int
    floor: float
    zooms: tuple[float, ...]


SMALL = Effort(limit=256, floor=0.65, zooms=ZOOMS)
# Within a set, b at zoom 0.64 in a is a at zoom 1 in b: the smaller zooms, asked by both, are enough.
LARGE = Effort(limit=FEW, floor=0.8, zooms=ZOOMS[:3])
LARGE_BETWEEN = Effort(limit=FEW, floor=0.7, zooms=ZOOMS)


@dataclass(frozen=True)
class Candidates:
    """Pairs to check; `crowded`: queries that had more of them than the limit, or could not look at all."""

    query: Rows
    reference: Rows
    crowded: Rows


def find_pairs(
    queries: Thumbnails,
    references: Thumbnails | None,
    threshold: float,
    *,
    also: tuple[Rows, Rows] | None = None,
    confirm: Confirm | None = None,
    threads: int = 1,
) -> Pairs:
    """Pairs with similarity >= threshold > 0. `queries`, `references`: thumbnails [N, S, S, 3].

    Without references: pairs within the queries, each once, query < reference, enough of them to tell the groups;
    `also`: further candidates (rows, rows). `confirm`: a second look at pairs that are similar enough. An image
    without contrast (`hashes.BLANK`) matches nothing. The similarities do not depend on `threads` or, within the
    queries, on the order of a pair.
    """
    if not len(queries) or (references is not None and not len(references)):
        return _pairs([])
    if references is None:
        return _within(queries, threshold, also, confirm, threads)
    effort = SMALL if len(queries) * len(references) <= EXACT**2 else LARGE_BETWEEN
    index = _index(references, np.arange(len(references)), effort, threads)
    found = _candidates(queries, np.arange(len(queries)), index, None, effort, threads)
    pairs = _check(queries, references, found.query, found.reference, threshold, threads)
    return pairs if confirm is None else pairs.where(confirm(pairs))


def _within(
    images: Thumbnails,
    threshold: float,
    also: tuple[Rows, Rows] | None,
    confirm: Confirm | None,
    threads: int,
) -> Pairs:
    alive = asked = np.arange(len(images))
    effort = SMALL if len(images) <= EXACT else LARGE
    index = _index(images, alive, effort, threads)
    found: list[Pairs] = []
    for _ in range(ROUNDS):
        near = _candidates(images, asked, index, alive, effort, threads)
        one, two = near.query, near.reference
        if also is not None and not found:
            one, two = np.concatenate([one, also[0]]), np.concatenate([two, also[1]])
        pairs = _check(images, None, *_unordered(one, two, len(images)), threshold, threads)
        found.append(pairs if confirm is None else pairs.where(confirm(pairs)))
        if not len(near.crowded) or not len(found[-1].query):
            break
        first = groups(_pairs(found), len(images))
        before, alive = len(alive), alive[first[alive] == alive]
        if len(alive) == before:  # the same would be found again
            break
        asked = np.intersect1d(near.crowded, alive)
        index.clear()
        _fill(index, images, alive, threads)
    return _pairs(found)


def groups(pairs: Pairs, images: int) -> Rows:
    """[images]: the smallest row of the group each belongs to; groups are chains of pairs (a like b, b like c)."""
    first = np.arange(images)
    while True:
        one, two = first[pairs.query], first[pairs.reference]
        if np.array_equal(one, two):
            return first
        np.minimum.at(first, np.maximum(one, two), np.minimum(one, two))
        while not np.array_equal(first, first[first]):
            first = first[first]


def _index(images: Thumbnails, rows: Rows, effort: Effort, threads: int) -> Index:
    """The centres of these rows, in their order."""
    sample = None
    if effort is not SMALL:
        step = max(len(rows) // sample_size(len(rows)), 1)
        centres = np.concatenate([_centres(images[part]) for part in blocks(rows[::step])])
        sample = centres[centres.any(axis=1)]  # blank images have none
        sample = sample if len(sample) else np.eye(1, COARSE * COARSE, dtype=np.float32)
    index = Index(COARSE * COARSE, sample)
    _fill(index, images, rows, threads)
    return index


def _fill(index: Index, images: Thumbnails, rows: Rows, threads: int) -> None:
    for vectors in side_by_side(lambda part: _centres(images[part]), blocks(rows), threads):
        index.add(vectors)


def _centres(thumbnails: Bytes) -> Floats:
    return centre(pictures(thumbnails), CENTRE, COARSE).astype(np.float32)


def _candidates(
    images: Thumbnails,
    asked: Rows,
    index: Index,
    references: Rows | None,
    effort: Effort,
    threads: int,
) -> Candidates:
    """For each row `asked` what comes nearest to any of its views.

    `references`: the images' own rows in the index, then no image is its own candidate; None: other images.
    """

    def nearest(rows: Rows) -> Candidates:
        place, hit, value = [], [], []
        crowded = np.zeros(len(rows), bool)
        for descriptors in views(pictures(images[rows]), effort.zooms):
            found = index.search(descriptors, effort.limit + 1)  # an image finds itself, too
            near = (found.place >= 0) & (found.value >= effort.floor)
            crowded |= near.all(axis=1) | found.cut
            place.append(np.nonzero(near)[0])
            hit.append(found.place[near] if references is None else references[found.place[near]])
            value.append(found.value[near])
        one, two, close = np.concatenate(place), np.concatenate(hit), np.concatenate(value)
        if references is not None:
            other = rows[one] != two
            one, two, close = one[other], two[other], close[other]
        one, two = _best(one, two, close, crowded, effort.limit)
        return Candidates(rows[one], two, rows[crowded])

    found = list(side_by_side(nearest, blocks(asked), threads))
    none = np.empty(0, np.int64)
    return Candidates(
        np.concatenate([none, *(part.query for part in found)]),
        np.concatenate([none, *(part.reference for part in found)]),
        np.concatenate([none, *(part.crowded for part in found)]),
    )


def _best(
    query: Rows, hit: Rows, value: Floats, crowded: NDArray[np.bool_], limit: int
) -> tuple[Rows, Rows]:
    """All hits of each query, each once; the FEW with the largest values of a crowded one.

    Marks in `crowded` [Q] who has more than `limit`.
    """
    order = np.lexsort((-value, hit, query))
    query, hit, value = query[order], hit[order], value[order]
    new = np.ones(len(query), bool)
    new[1:] = (query[1:] != query[:-1]) | (hit[1:] != hit[:-1])
    query, hit, value = query[new], hit[new], value[new]
    crowded |= np.bincount(query, minlength=len(crowded)) > limit
    order = np.lexsort((hit, -value, query))
    query, hit = query[order], hit[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    keep = ~crowded[query] | (rank < FEW)
    return query[keep], hit[keep]


def _check(
    queries: Thumbnails,
    references: Thumbnails | None,
    query: Rows,
    reference: Rows,
    threshold: float,
    threads: int,
) -> Pairs:
    """Those with similarity >= threshold, sorted. Without references the better of both directions counts.

    Which of two images is a detail of the other must not depend on the order of rows.
    """
    others = queries if references is None else references
    exact = np.empty(0)
    for precision, margin in ((np.float32, ROUNDING), (np.float64, 0.0)):
        exact = _similarity(queries, others, query, reference, precision, threads)
        if references is None:
            exact = np.maximum(
                exact, _similarity(queries, queries, reference, query, precision, threads)
            )
        keep = exact >= threshold - margin
        query, reference, exact = query[keep], reference[keep], exact[keep]
    return _pairs([Pairs(query, reference, exact)])


def _similarity(
    queries: Thumbnails,
    references: Thumbnails,
    query: Rows,
    reference: Rows,
    precision: type[np.floating],
    threads: int,
) -> Doubles:
    """`hashes.similarity` of each pair; those of one query together, for they share its windows."""
    order = np.lexsort((reference, query))

    def verdict(part: Rows) -> Numbers:
        rows, left = np.unique(query[part], return_inverse=True)
        others, right = np.unique(reference[part], return_inverse=True)
        gray, other = pictures(queries[rows]), pictures(references[others])
        return similarity(gray.astype(precision), other, left, right)

    parts = (order[start : start + CHECKED] for start in range(0, len(order), CHECKED))
    out = np.empty(len(query))
    found = list(side_by_side(verdict, parts, threads))
    out[order] = np.concatenate([np.empty(0), *found])
    return out


def _pairs(parts: Sequence[Pairs]) -> Pairs:
    """One sorted table of several, each pair once."""
    query = np.concatenate([np.empty(0, np.int64), *(part.query for part in parts)])
    reference = np.concatenate([np.empty(0, np.int64), *(part.reference for part in parts)])
    value = np.concatenate([np.empty(0), *(part.similarity for part in parts)])
    order = np.lexsort((reference, query))
    query, reference, value = query[order], reference[order], value[order]
    new = np.ones(len(query), bool)
    new[1:] = (query[1:] != query[:-1]) | (reference[1:] != reference[:-1])
    return Pairs(query[new], reference[new], value[new])


def _unordered(one: Rows, two: Rows, images: int) -> tuple[Rows, Rows]:
    """Each pair once, the smaller row first, sorted."""
    codes = np.unique(np.minimum(one, two) * images + np.maximum(one, two))
    return codes // images, codes % images
