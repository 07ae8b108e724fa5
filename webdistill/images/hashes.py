"""Near-duplicates: the same picture resized, mirrored, recompressed, brightened, slightly cropped or framed.

Descriptor of a window of an image: the low cosine (DCT) frequencies of its luminance, each multiplied by
frequency^0.75, which evens out the 1/f spectrum of natural pictures, then scaled to unit length. The mean is left
out, so brightness and contrast do not matter; a mirror image has the same numbers with some signs flipped.
Two steps, both inner products:

1. candidates: the centre of every reference (FAISS, exact search) against the centre of every query at five zooms,
   as it is and mirrored, 8 x 8 frequencies;
2. check: each candidate pair again with 12 x 12 frequencies, now over a grid of zooms and shifts of the query.

Only the inner 80 % of the reference is compared, so two pictures in the same frame are not taken for one picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CENTRE = 0.8  # side of the compared part of the reference, of the image's side
ZOOMS = (0.64, 0.72, 0.8, 0.88, 0.96)  # sides of the query's window: +-25 % around CENTRE
SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the largest shift checked
MAX_SHIFT = 0.06  # of the image's side
COARSE, FINE = 8, 12  # frequencies a side
CANDIDATE = 0.65  # inner product from which a pair is checked
BLANK = 1.5  # grey levels (standard deviation) below which an image has no picture in it
BLOCK = 2048  # images at a time


@dataclass(frozen=True)
class Pairs:
    """Matches, sorted by query, then reference: row numbers and similarity, -1 to 1, of pair p."""

    query: NDArray[np.int64]
    reference: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A square part of an image, in parts of its side."""

    left: float
    top: float
    side: float


def find_pairs(
    queries: Bytes, references: Bytes | None, threshold: float, *, threads: int = 1
) -> Pairs:
    """Pairs with similarity >= threshold. `queries`, `references`: thumbnails [N, S, S, 3].

    Without references: pairs within the queries, each once, query < reference.
    An image without contrast (`contrast` < BLANK) matches nothing. The similarities are computed pair by pair in
    float64 and do not depend on `threads` or, within the queries, on the order of a pair.
    """
    within = references is None
    gray_query = luminance(queries)
    gray_reference = gray_query if references is None else luminance(references)
    if not len(gray_query) or not len(gray_reference):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    for gray in (gray_query, gray_reference):
        gray[gray.std(axis=(1, 2)) < BLANK] = 0  # what would be compared is noise
    query, reference = _candidates(gray_query, gray_reference, within, threads)
    similarity = np.empty(len(query))

    def check(rows: slice) -> None:
        one, two = query[rows], reference[rows]
        found = _check(gray_query, gray_reference, one, two)
        if within:  # which of the two is a detail of the other must not depend on the order of rows
            found = np.maximum(found, _check(gray_query, gray_query, two, one))
        similarity[rows] = found

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(check, _grouped(query)))
    keep = similarity >= threshold
    return Pairs(query[keep], reference[keep], similarity[keep])


def contrast(thumbnails: Bytes) -> Floats:
    """[N, S, S, 3] -> standard deviation of the luminance in grey levels [N]."""
    return np.asarray(luminance(thumbnails).std(axis=(1, 2)))


def luminance(thumbnails: Bytes) -> Floats:
    """[N, S, S, 3] uint8 -> [N, S, S] float32, 0 to 255 (ITU-R BT.601)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    blocks = [
        thumbnails[i : i + BLOCK].astype(np.float32) @ weights
        for i in range(0, len(thumbnails), BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(thumbnails.shape[:3], np.float32)


def describe(gray: NDArray[np.floating], window: Window, frequencies: int) -> NDArray[np.floating]:
    """[N, S, S] -> unit descriptors [N, frequencies^2] of one window; zero for a window without contrast."""
    size = gray.shape[1]
    rows = cosines(size, window.top, window.side, frequencies).astype(gray.dtype)
    columns = cosines(size, window.left, window.side, frequencies).astype(gray.dtype)
    spectrum = rows @ (gray @ columns.T)
    radius = np.hypot(*np.meshgrid(np.arange(frequencies), np.arange(frequencies)))
    flat = (spectrum * (radius**0.75).astype(gray.dtype)).reshape(len(gray), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > 1e-3, flat / np.where(norm > 1e-3, norm, 1), 0).astype(gray.dtype)


def cosines(size: int, start: float, side: float, frequencies: int) -> NDArray[np.float64]:
    """Matrix [frequencies, size]: pixels of a line -> cosine coefficients of the window [start, start + side].

    Each entry is the integral of the cosine over the pixel's share of the window, so windows need not end
    at pixel borders.
    """
    edges = np.clip((np.arange(size + 1) / size - start) / side, 0, 1)
    order = np.arange(1, frequencies)[:, None] * np.pi
    integral = np.sqrt(2) * np.sin(order * edges) / order
    return np.concatenate([np.diff(edges)[None], np.diff(integral, axis=1)])


def mirror_signs(frequencies: int) -> Floats:
    """[frequencies^2]: factors that turn a descriptor into that of the image mirrored left to right."""
    signs = np.where(np.arange(frequencies) % 2, -1.0, 1.0).astype(np.float32)
    return np.tile(signs, frequencies)


def _central(side: float) -> Window:
    return Window((1 - side) / 2, (1 - side) / 2, side)


def _candidates(
    queries: Floats, references: Floats, within: bool, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(COARSE * COARSE)
    index.add(describe(references, _central(CENTRE), COARSE))
    signs = mirror_signs(COARSE)
    codes = []
    for start in range(0, len(queries), BLOCK):
        for zoom in ZOOMS:
            plain = describe(queries[start : start + BLOCK], _central(zoom), COARSE)
            for descriptors in (plain, plain * signs):
                limits, _, hits = index.range_search(np.ascontiguousarray(descriptors), CANDIDATE)
                rows = (
                    np.repeat(np.arange(len(descriptors)), np.diff(limits).astype(np.int64)) + start
                )
                if within:
                    hits, rows = hits[rows != hits], rows[rows != hits]
                    rows, hits = np.minimum(rows, hits), np.maximum(rows, hits)
                codes.append(np.unique(rows * len(references) + hits))
    pairs = np.unique(np.concatenate(codes))
    return pairs // len(references), pairs % len(references)


def _grouped(query: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of pairs, at most about BLOCK long, cut where the query changes."""
    start = 0
    while start < len(query):
        stop = min(start + BLOCK, len(query))
        if stop < len(query):
            stop = max(int(np.searchsorted(query, query[stop])), start + 1)
            stop = int(np.searchsorted(query, query[stop - 1], side="right"))
        yield slice(start, stop)
        start = stop


def _windows() -> list[Window]:
    windows = set()
    for zoom in ZOOMS:
        largest = min(MAX_SHIFT, (1 - zoom) / 2)
        for across in SHIFTS:
            for down in SHIFTS:
                windows.add(
                    Window((1 - zoom) / 2 + across * largest, (1 - zoom) / 2 + down * largest, zoom)
                )
    return sorted(windows, key=lambda w: (w.side, w.top, w.left))


def _check(
    queries: Floats, references: Floats, query: NDArray[np.int64], reference: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Similarity of each pair, in float64: the best over windows of the query and its mirror image."""
    left, left_row = np.unique(query, return_inverse=True)
    right, right_row = np.unique(reference, return_inverse=True)
    wanted = describe(references[right].astype(np.float64), _central(CENTRE), FINE)[right_row]
    mirrored = wanted * mirror_signs(FINE)
    gray = queries[left].astype(np.float64)
    best = np.full(len(query), -1.0)
    for window in _windows():
        found = describe(gray, window, FINE)[left_row]
        for target in (wanted, mirrored):
            np.maximum(best, np.einsum("pf,pf->p", found, target), out=best)
    return best
