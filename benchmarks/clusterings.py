"""Clusterings of one feature matrix: the stage's, scikit-learn's, FAISS's. Each runs in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

GROUPS = 300  # of the mixture
ROWS = 16_384  # worked on at a time where only this file's own memory is concerned


@dataclass(frozen=True)
class Setting:
    """What all variants of one run share."""

    images: int
    width: int  # of the features
    count: int  # N, clusters
    dims: int  # of PCA
    iterations: int  # most rounds of the variants that have no number of their own
    threads: int
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What a clustering is judged by. Centroids lie in the features' space, so that all share one."""

    centroids: np.ndarray  # [N, d] float32: mean + components^T @ centroid of PCA space
    labels: np.ndarray  # [n]
    prototypes: np.ndarray  # [N, d], mean of a cluster's features


Clustering = Callable[[np.ndarray, Setting], Found]


def features(setting: Setting, target: Path) -> None:
    """Write float16 [n, d] to an .npy file: a mixture of unequal Gaussians, cut at zero as a ReLU would."""
    rng = np.random.default_rng(setting.seed)
    share = rng.dirichlet(np.full(GROUPS, 0.7))
    decay = np.exp(-np.arange(setting.width) * 3.4 / setting.width)
    centres = rng.normal(size=(GROUPS, setting.width)) * decay
    out = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.float16, shape=(setting.images, setting.width)
    )
    for part in _parts(setting.images):
        group = rng.choice(GROUPS, size=part.stop - part.start, p=share)
        noise = rng.normal(size=(len(group), setting.width))
        out[part] = np.maximum(centres[group] + 0.7 * noise + 0.3, 0)
    out.flush()


def _parts(rows: int) -> Iterator[slice]:
    return (slice(at, min(at + ROWS, rows)) for at in range(0, rows, ROWS))


def ours(x: np.ndarray, setting: Setting) -> Found:
    """As the stage `prototypes` does it."""
    from webdistill.clustering import fit_projection, group_means, kmeans, project

    threads = setting.threads
    fitted = fit_projection(x, setting.dims, threads=threads)
    flat = project(x, fitted, threads)
    found = kmeans(flat, setting.count, setting.iterations, setting.seed, threads=threads)
    lifted = fitted.mean + found.centroids @ fitted.components
    return Found(lifted, found.labels, group_means(x, found.labels, setting.count, threads))


def sklearn(x: np.ndarray, setting: Setting) -> Found:
    """PCA and MiniBatchKMeans, all else as delivered."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    pca = PCA(setting.dims, random_state=setting.seed)
    flat = pca.fit_transform(x.astype(np.float32))
    clusters = MiniBatchKMeans(
        setting.count, max_iter=setting.iterations, random_state=setting.seed
    )
    labels = clusters.fit(flat).labels_
    lifted = pca.inverse_transform(clusters.cluster_centers_)
    return Found(lifted.astype(np.float32), labels, _means(x, labels, setting.count))


def _faiss(x: np.ndarray, setting: Setting, **options: int) -> Found:
    import faiss

    pca = faiss.PCAMatrix(setting.width, setting.dims)
    full = x.astype(np.float32)
    pca.train(full)
    flat = pca.apply(full)
    clusters = faiss.Kmeans(setting.dims, setting.count, seed=setting.seed + 1, **options)
    clusters.train(flat)
    labels = clusters.index.search(flat, 1)[1][:, 0]
    lifted = pca.reverse_transform(clusters.centroids)
    return Found(lifted, labels, _means(x, labels, setting.count))


def faiss_default(x: np.ndarray, setting: Setting) -> Found:
    """PCAMatrix and Kmeans as delivered: 25 rounds over a random 256 points per centroid."""
    return _faiss(x, setting)


def faiss_all(x: np.ndarray, setting: Setting) -> Found:
    """25 rounds over all points."""
    return _faiss(x, setting, max_points_per_centroid=len(x))


def faiss_long(x: np.ndarray, setting: Setting) -> Found:
    """As many rounds as ours may take, over all points."""
    return _faiss(x, setting, max_points_per_centroid=len(x), niter=setting.iterations)


def _means(x: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Of each cluster's features; zeros where there are none."""
    means = np.zeros((count, x.shape[1]), dtype=np.float32)
    for cluster in np.unique(labels):
        means[cluster] = x[labels == cluster].mean(axis=0, dtype=np.float64)
    return means


VARIANTS: dict[str, Clustering] = {
    "ours": ours,
    "sklearn": sklearn,
    "faiss": faiss_default,
    "faiss-all": faiss_all,
    "faiss-long": faiss_long,
}


def serve(
    connection: Connection, name: str, setting: Setting, data: Path, target: Path, repeat: int
) -> None:
    """Body of a variant's process: warm up on a few rows, then one clustering per message received."""
    cluster = VARIANTS[name]
    x = np.load(data)
    few = replace(setting, count=2, iterations=2)
    cluster(x[: max(2000, 2 * setting.dims)], few)
    connection.send({"features_mib": x.nbytes / 2**20})
    del x  # a process that waits holds nothing
    for _ in range(repeat):
        connection.recv()
        x = np.load(data)
        begun, used = time.perf_counter(), time.process_time()
        found = cluster(x, setting)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
        del x
        connection.send({"seconds": seconds, "cpu_seconds": cpu})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert found.prototypes.shape == (setting.count, setting.width)
    np.save(target, found.centroids)
    connection.send({"peak_mib": peak})


def judge(data: Path, setting: Setting, centroids: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Inertia of all points in one PCA space for all variants, and how many points each centroid is nearest to."""
    import faiss

    from webdistill.clustering import fit_projection, project

    x = np.load(data)
    fitted = fit_projection(x, setting.dims, threads=setting.threads)
    flat = project(x, fitted, setting.threads)
    found = {}
    for name, path in centroids.items():
        index = faiss.IndexFlatL2(setting.dims)
        places = project(np.load(path), fitted)
        index.add(places)
        inertia, sizes = 0.0, np.zeros(setting.count, dtype=np.int64)
        for part in _parts(len(flat)):
            nearest = index.search(flat[part], 1)[1][:, 0]
            away = flat[part].astype(np.float64) - places[nearest]
            inertia += float((away**2).sum())
            sizes += np.bincount(nearest, minlength=setting.count)
        found[name] = {
            "inertia": inertia,
            "smallest": int(sizes.min()),
            "empty": int((sizes == 0).sum()),
        }
    return found
