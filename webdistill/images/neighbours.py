"""Nearest unit vectors by inner product: exactly where few are compared, by inverted lists where many are.

An inverted file (Jegou et al. 2011, section IV; FAISS) sorts the vectors into lists by their nearest centroid, and a
query looks into the PROBES lists whose centroids are nearest to it. With 4 sqrt(N) lists that is an effort of about
4 sqrt(N) centroids and 2 sqrt(N) vectors. Vectors lie in float16 there.

A dense clump (the same placeholder 100,000 times) would lie in one list, and everybody in it would look at all of it:
a query therefore looks at LOOKS vectors at most, and is told when there were more (`Found.cut`).

All of FAISS runs on one thread inside a block of queries; several blocks run side by side. Blocks are the same for any
number of threads, and so are the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from webdistill.images.hashes import BLOCK, Floats, Rows

T = TypeVar("T")
U = TypeVar("U")

PROBES = 8  # lists a query looks into
LOOKS = 20_000  # vectors a query looks at, at most
TRAINING = 48  # vectors per centroid from which k-means learns
ROUNDS = 8  # of k-means


@dataclass(frozen=True)
class Found:
    """For each query: inner products [Q, count], falling, and places [Q, count], -1 where there are no more."""

    value: Floats
    place: Rows
    cut: NDArray[np.bool_]  # [Q] more vectors were near than it was allowed to look at


class Index:
    """Unit vectors [N, d] float32, in the order in which they are added; an empty one finds nothing."""

    def __init__(self, width: int, sample: Floats | None) -> None:
        """Exact without a `sample`; with one [n, d], lists for 4 sqrt(N) of it; see `sample_size`."""
        import faiss

        self._lists = 0
        self._sizes: Rows | None = None  # of the lists; None: not counted since the last change
        if sample is None:
            self._index: Any = faiss.IndexFlatIP(width)
            return
        self._lists = max(len(sample) // TRAINING, 1)
        quantizer = faiss.IndexFlatIP(width)
        quantizer.add(_centroids(sample, self._lists))
        self._index = faiss.IndexIVFScalarQuantizer(
            quantizer, width, self._lists, faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT, False,
        )  # fmt: skip
        self._index.is_trained = True  # the centroids are there, and float16 needs no training
        self._index.nprobe = min(PROBES, self._lists)
        self._index.max_codes = LOOKS
        self._quantizer = quantizer

    def add(self, vectors: Floats) -> None:
        """Unit vectors [n, d] float32, whose places follow those that are there."""
        self._sizes = None
        self._index.add(np.ascontiguousarray(vectors))

    def clear(self) -> None:
        """Without vectors again; the lists stay as they are."""
        self._sizes = None
        self._index.reset()

    def search(self, queries: Floats, count: int) -> Found:
        """The `count` nearest of each query [Q, d] float32 of unit length, equals in no particular order."""
        queries = np.ascontiguousarray(queries)
        if not self._lists:
            value, place = self._index.search(queries, count)
            return Found(value, place, np.zeros(len(queries), bool))
        near, lists = self._quantizer.search(queries, self._index.nprobe)
        value, place = self._index.search_preassigned(queries, count, lists, near)
        if self._sizes is None:
            inverted = self._index.invlists
            self._sizes = np.array([inverted.list_size(n) for n in range(self._lists)])
        return Found(value, place, self._sizes[lists].sum(axis=1) > LOOKS)


def sample_size(vectors: int) -> int:
    """From how many an index of this many vectors learns its lists."""
    return min(vectors, TRAINING * max(int(4 * vectors**0.5), 1))


def _centroids(sample: Floats, count: int) -> Floats:
    """Spherical k-means of FAISS from a fixed seed, on one thread."""
    import faiss

    learned = faiss.Kmeans(
        sample.shape[1], count, niter=ROUNDS, seed=0, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=TRAINING * 2,
    )  # fmt: skip
    learned.train(np.ascontiguousarray(sample))
    return np.asarray(learned.centroids)


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS and every BLAS on a single thread: their last bits depend on how many there are."""
    import faiss  # noqa: F401  (brings a BLAS and an OpenMP of its own)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def side_by_side(work: Callable[[T], U], parts: Iterable[T], threads: int) -> Iterator[U]:
    """work(part) of one part after the other, in their order; `threads` of them under way at a time."""
    import faiss

    waiting: deque[Future[U]] = deque()
    pin = faiss.omp_set_num_threads  # OpenMP's limit holds for the thread that sets it
    with one_thread(), ThreadPoolExecutor(threads, initializer=pin, initargs=(1,)) as workers:
        for part in parts:
            waiting.append(workers.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def blocks(rows: Rows) -> Iterator[Rows]:
    """`rows` in parts of BLOCK."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
