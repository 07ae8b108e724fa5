"""PCA, k-means++ and prototypes that depend on the rows only, not on threads: see promise R3.

Work goes chunk by chunk through a pool of threads. A chunk is always the same rows, computed on one
thread, and what comes of the chunks is added in their order: FAISS and LAPACK on several threads
differ in the last bits between thread counts, and k-means turns last bits into other clusters.

FAISS finds the nearest centroids. Its `Kmeans` is not used: it samples 256 points per centroid in
silence and leaves its empty clusters to chance; here every row counts. Nor is its `PCAMatrix`: it
wants all rows as one float32 matrix, where here a chunk is converted at a time and sums are float64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from webdistill.core.errors import UserError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
Float32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

CHUNK = 4096  # rows worked on at a time: bounds scratch memory and fixes the order of every sum


@dataclass(frozen=True)
class Projection:
    """z = components @ (x - mean)."""

    mean: Float32  # [d]
    components: Float32  # [p, d], orthonormal rows, largest variance first
    explained: float  # share of the variance that the p dimensions keep


@dataclass(frozen=True)
class Clusters:
    """A k-means solution."""

    centroids: Float32  # [N, p]
    labels: Ints  # [n] int32, the nearest centroid
    distances: Float32  # [n] Euclidean distance to it
    iterations: int
    moved: int  # points that changed cluster in the last iteration; 0 = fixed point
    refilled: int  # how often an empty cluster took over a point


@cache
def _thread_pools() -> ThreadpoolController:
    import faiss  # noqa: F401  (brings a BLAS and an OpenMP of its own)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS and every BLAS on a single thread."""
    with _thread_pools().limit(limits=1):
        yield


def _in_chunks(work: Callable[[slice], T], rows: int, threads: int) -> Iterator[T]:
    """work(part) of one chunk after the other, in their order; `threads` chunks are under way at a time."""
    import faiss

    waiting: deque[Future[T]] = deque()
    pin = faiss.omp_set_num_threads  # OpenMP's limit holds for the thread that sets it
    with ThreadPoolExecutor(threads, initializer=pin, initargs=(1,)) as pool:
        for start in range(0, rows, CHUNK):
            waiting.append(pool.submit(work, slice(start, min(start + CHUNK, rows))))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def fit_projection(
    x: Floats, dims: int, section: str = "prototypes", threads: int = 1
) -> Projection:
    """PCA of x [n, d] (float16 or float32). Raises UserError when dims > min(n, d).

    Messages name the parameter `dims` of `section`. Products of a chunk's centred rows are float32: of non-negative
    features that are not centred first, they would lose digits to the mean.
    """
    rows, width = x.shape
    if dims > width:
        raise UserError(
            f"{section}.dims = {dims}, but the teacher's space has {width} dimensions; lower it"
        )
    if dims > rows:
        raise UserError(
            f"{section}.dims = {dims}, but only {rows} images are selected; lower it or select more"
        )
    mean = _mean(x, threads)
    if not np.isfinite(mean).all():
        raise UserError(
            "PCA of the teacher's features is not finite; run `dvc repro score` with precision: "
            "float32"
        )

    def scatter(part: slice) -> Float32:
        centred = _centred(x[part], mean)
        return centred.T @ centred

    covariance = np.zeros((width, width))
    with one_thread():
        for product in _in_chunks(scatter, rows, threads):
            covariance += product
        spectrum, vectors = np.linalg.eigh(covariance)
    components = np.ascontiguousarray(vectors.T[::-1][:dims], dtype=np.float32)
    # An eigenvector's sign is arbitrary: its largest entry shall be positive.
    largest = np.abs(components).argmax(axis=1)
    components[components[np.arange(dims), largest] < 0] *= -1
    spectrum = spectrum[::-1].clip(min=0.0)
    total = float(spectrum.sum())
    return Projection(mean, components, float(spectrum[:dims].sum()) / total if total > 0 else 1.0)


def _mean(x: Floats, threads: int) -> Float32:
    total = np.zeros(x.shape[1])
    for part in _in_chunks(lambda part: x[part].sum(axis=0, dtype=np.float64), len(x), threads):
        total += part
    return (total / len(x)).astype(np.float32)


def _centred(x: Floats, mean: Float32) -> Float32:
    out = x.astype(np.float32)
    out -= mean
    return out


def project(x: Floats, projection: Projection, threads: int = 1) -> Float32:
    """x [n, d] -> [n, p] float32."""
    out = np.empty((len(x), len(projection.components)), dtype=np.float32)

    def fill(part: slice) -> None:
        np.matmul(_centred(x[part], projection.mean), projection.components.T, out=out[part])

    with one_thread():
        _run(fill, len(x), threads)
    return out


def _run(work: Callable[[slice], None], rows: int, threads: int) -> None:
    for _ in _in_chunks(work, rows, threads):
        pass


def group_sums(x: Floats, labels: Ints, groups: int, threads: int = 1) -> NDArray[np.float64]:
    """Sum of the rows of each group: [groups, d] float64, always added in the order of the rows."""

    def sums_of(part: slice) -> tuple[Ints, NDArray[np.float64]]:
        order = np.argsort(labels[part], kind="stable")
        present, starts = np.unique(labels[part][order], return_index=True)
        return present, np.add.reduceat(x[part][order].astype(np.float64), starts, axis=0)

    sums = np.zeros((groups, x.shape[1]))
    for present, part in _in_chunks(sums_of, len(x), threads):
        sums[present] += part
    return sums


def group_means(x: Floats, labels: Ints, groups: int, threads: int = 1) -> Float32:
    """Mean of the rows of each group, [groups, d] float32; no group may be empty."""
    counts = np.bincount(labels, minlength=groups)
    return (group_sums(x, labels, groups, threads) / counts[:, None]).astype(np.float32)


def seed_centroids(x: Float32, count: int, seed: int, section: str = "prototypes") -> Float32:
    """k-means++: the next centroid is drawn in proportion to the squared distance to the nearest.

    Raises UserError when x [n, p] has fewer than `count` rows or distinct rows.
    """
    import faiss

    rows, width = x.shape
    if count > rows:
        raise UserError(
            f"{section}.count = {count}, but only {rows} images are selected; lower it or select "
            "more"
        )
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(rows))]
    nearest = np.full(rows, np.inf, dtype=np.float32)
    distance = np.empty(rows, dtype=np.float32)
    while True:
        centre = x[chosen[-1]].copy()
        # Exact differences, not norms minus products: a copy of a centroid must have distance 0.
        out, one, many = faiss.swig_ptr(distance), faiss.swig_ptr(centre), faiss.swig_ptr(x)
        faiss.fvec_L2sqr_ny(out, one, many, width, rows)  # type: ignore[attr-defined]  # SWIG adds it
        np.minimum(nearest, distance, out=nearest)
        if len(chosen) == count:
            return x[chosen]
        steps = np.cumsum(nearest, dtype=np.float64)
        if not steps[-1] > 0:
            raise UserError(
                f"{section}.count = {count}, but the selected images have only {len(chosen)} "
                "distinct features; lower it"
            )
        drawn = int(np.searchsorted(steps, rng.random() * steps[-1], side="right"))
        chosen.append(min(drawn, int(np.flatnonzero(nearest)[-1])))


def assign(x: Float32, centroids: Float32, threads: int = 1) -> tuple[Ints, Float32, int]:
    """-> (nearest centroid of each row, squared distance to it, clusters refilled); leaves no cluster empty.

    An empty cluster takes over the point that lies farthest from its own centroid (the first of
    several, and never the last of its cluster), and `centroids` is changed in place to match.
    """
    import faiss

    index = faiss.IndexFlatL2(x.shape[1])
    index.add(centroids)
    labels = np.empty(len(x), dtype=np.int32)
    squared = np.empty(len(x), dtype=np.float32)

    def fill(part: slice) -> None:
        labels[part] = index.search(x[part], 1)[1][:, 0]
        difference = x[part] - centroids[labels[part]]
        squared[part] = np.einsum("ij,ij->i", difference, difference)

    with one_thread():
        _run(fill, len(x), threads)
    sizes = np.bincount(labels, minlength=len(centroids))
    empty = np.flatnonzero(sizes == 0)
    for cluster in empty:
        donor = int(np.where(sizes[labels] > 1, squared, -1.0).argmax())
        sizes[labels[donor]] -= 1
        sizes[cluster] = 1
        labels[donor], squared[donor], centroids[cluster] = cluster, 0.0, x[donor]
    return labels, squared, len(empty)


def kmeans(
    x: Float32,
    count: int,
    iterations: int,
    seed: int,
    section: str = "prototypes",
    threads: int = 1,
) -> Clusters:
    """k-means++ and Lloyd's iterations over every row of x [n, p]; clusters come largest first.

    Stops when no point moves. Then each centroid is the mean of its points and each point is with
    its nearest centroid (to float32 rounding); after `iterations` without rest only the latter
    holds. Messages name the parameter `count` of `section`.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    centroids = seed_centroids(x, count, seed, section)
    labels, squared, refilled = assign(x, centroids, threads)
    moved, done = len(x), 0
    while moved and done < iterations:
        centroids = group_means(x, labels, count, threads)
        now, squared, empty = assign(x, centroids, threads)
        moved, refilled = int((now != labels).sum()), refilled + empty
        labels, done = now, done + 1
    return _largest_first(Clusters(centroids, labels, np.sqrt(squared), done, moved, refilled))


def assign_all(x: Float32, learned: Clusters, threads: int = 1) -> Clusters:
    """Clusters that were learned from some rows, now of all rows of x [n, p]: no centroid is learned anew."""
    centroids = learned.centroids.copy()
    labels, squared, empty = assign(x, centroids, threads)
    return _largest_first(
        replace(
            learned,
            centroids=centroids,
            labels=labels,
            distances=np.sqrt(squared),
            refilled=learned.refilled + empty,
        )
    )


def _largest_first(clusters: Clusters) -> Clusters:
    count = len(clusters.centroids)
    order = np.argsort(-np.bincount(clusters.labels, minlength=count), kind="stable")
    place = np.empty(count, dtype=np.int32)
    place[order] = np.arange(count)
    return replace(clusters, centroids=clusters.centroids[order], labels=place[clusters.labels])
