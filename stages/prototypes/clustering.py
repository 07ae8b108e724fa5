"""PCA, k-means++ and prototypes that depend on the images only: not on threads, rows or shards.

FAISS does the heavy parts (eigenvectors, projection, nearest centroids), always on one thread: its
results differ in the last bits between thread counts, and k-means turns last bits into other
clusters. Means are summed here, in float64 and in the order of the rows, which the caller sorts by
id. FAISS's own `Kmeans` is not used: it samples 256 points per centroid in silence and leaves its
empty clusters to chance; here every image counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webdistill.core.errors import UserError

Float32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

CHUNK = 16_384  # rows worked on at a time: bounds scratch memory and fixes the order of every sum


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


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS, and the BLAS inside it, on a single thread."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, CHUNK):
        yield slice(start, min(start + CHUNK, rows))


def fit_projection(x: Floats, dims: int) -> Projection:
    """PCA of x [n, d] (float16 or float32). Raises UserError when dims > min(n, d).

    Takes one centred float32 copy of x: FAISS forms the covariance in float32, which loses digits
    to the mean of non-negative features unless that is removed first.
    """
    import faiss

    rows, width = x.shape
    if dims > width:
        raise UserError(
            f"prototypes.dims = {dims}, but the teacher's space has {width} dimensions; lower it"
        )
    if dims > rows:
        raise UserError(
            f"prototypes.dims = {dims}, but only {rows} images are selected; lower it or select "
            "more"
        )
    mean = (group_sums(x, np.zeros(rows, dtype=np.int64), 1)[0] / rows).astype(np.float32)
    with one_thread():
        pca = faiss.PCAMatrix(width, dims)
        pca.max_points_per_d = rows  # the default takes a random sample of 1000 d rows
        pca.train(_centred(x, mean))
        components = faiss.vector_to_array(pca.A).reshape(-1, width)[:dims].copy()
        spectrum = faiss.vector_to_array(pca.eigenvalues).astype(np.float64).clip(min=0.0)
    if not np.isfinite(components).all():
        raise UserError(
            "PCA of the teacher's features is not finite; run `dvc repro score` with precision: "
            "float32"
        )
    # An eigenvector's sign is arbitrary: its largest entry shall be positive.
    largest = np.abs(components).argmax(axis=1)
    components[components[np.arange(dims), largest] < 0] *= -1
    total = float(spectrum.sum())
    return Projection(mean, components, float(spectrum[:dims].sum()) / total if total > 0 else 1.0)


def _centred(x: Floats, mean: Float32) -> Float32:
    out = np.empty(x.shape, dtype=np.float32)
    for part in _chunks(len(x)):
        np.subtract(x[part], mean, out=out[part], dtype=np.float32)
    return out


def project(x: Floats, projection: Projection) -> Float32:
    """x [n, d] -> [n, p] float32."""
    import faiss

    dims, width = projection.components.shape
    transform = faiss.LinearTransform(width, dims, False)
    faiss.copy_array_to_vector(projection.components.ravel(), transform.A)
    transform.is_trained = True
    out = np.empty((len(x), dims), dtype=np.float32)
    with one_thread():
        for part in _chunks(len(x)):
            out[part] = transform.apply(_centred(x[part], projection.mean))
    return out


def group_sums(x: Floats, labels: Ints, groups: int) -> NDArray[np.float64]:
    """Sum of the rows of each group: [groups, d] float64, always added in the order of the rows."""
    sums = np.zeros((groups, x.shape[1]))
    for part in _chunks(len(x)):
        order = np.argsort(labels[part], kind="stable")
        present, starts = np.unique(labels[part][order], return_index=True)
        sums[present] += np.add.reduceat(x[part][order].astype(np.float64), starts, axis=0)
    return sums


def group_means(x: Floats, labels: Ints, groups: int) -> Float32:
    """Mean of the rows of each group, [groups, d] float32; no group may be empty."""
    counts = np.bincount(labels, minlength=groups)
    return (group_sums(x, labels, groups) / counts[:, None]).astype(np.float32)


def seed_centroids(x: Float32, count: int, seed: int) -> Float32:
    """k-means++: the next centroid is drawn in proportion to the squared distance to the nearest.

    Raises UserError when x [n, p] has fewer than `count` rows or distinct rows.
    """
    import faiss

    rows, width = x.shape
    if count > rows:
        raise UserError(
            f"prototypes.count = {count}, but only {rows} images are selected; lower it or select "
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
        faiss.fvec_L2sqr_ny(out, one, many, width, rows)  # type: ignore[attr-defined]
        np.minimum(nearest, distance, out=nearest)
        if len(chosen) == count:
            return x[chosen]
        steps = np.cumsum(nearest, dtype=np.float64)
        if not steps[-1] > 0:
            raise UserError(
                f"prototypes.count = {count}, but the selected images have only {len(chosen)} "
                "distinct features; lower it"
            )
        drawn = int(np.searchsorted(steps, rng.random() * steps[-1], side="right"))
        chosen.append(min(drawn, int(np.flatnonzero(nearest)[-1])))


def assign(x: Float32, centroids: Float32) -> tuple[Ints, Float32]:
    """Nearest centroid of each row and the squared distance to it; never leaves a cluster empty.

    An empty cluster takes over the point that lies farthest from its own centroid (the first of
    several, and never the last of its cluster), and `centroids` is changed in place to match.
    """
    import faiss

    with one_thread():
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(centroids)
        labels = np.empty(len(x), dtype=np.int32)
        squared = np.empty(len(x), dtype=np.float32)
        for part in _chunks(len(x)):
            labels[part] = index.search(x[part], 1)[1][:, 0]
            difference = x[part] - centroids[labels[part]]
            squared[part] = np.einsum("ij,ij->i", difference, difference)
    sizes = np.bincount(labels, minlength=len(centroids))
    for cluster in np.flatnonzero(sizes == 0):
        donor = int(np.where(sizes[labels] > 1, squared, -1.0).argmax())
        sizes[labels[donor]] -= 1
        sizes[cluster] = 1
        labels[donor], squared[donor], centroids[cluster] = cluster, 0.0, x[donor]
    return labels, squared


def kmeans(x: Float32, count: int, iterations: int, seed: int) -> Clusters:
    """k-means++ and Lloyd's iterations over every row of x [n, p]; clusters come largest first.

    Stops when no point moves. Then each centroid is the mean of its points and each point is with
    its nearest centroid (to float32 rounding); after `iterations` without rest only the latter
    holds.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    centroids = seed_centroids(x, count, seed)
    labels, squared = assign(x, centroids)
    moved, done = len(x), 0
    while moved and done < iterations:
        centroids = group_means(x, labels, count)
        now, squared = assign(x, centroids)
        moved, labels, done = int((now != labels).sum()), now, done + 1
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    place = np.empty(count, dtype=np.int32)
    place[order] = np.arange(count)
    return Clusters(centroids[order], place[labels], np.sqrt(squared), done, moved)
