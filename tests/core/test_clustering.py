"""Clustering: PCA, k-means++, Lloyd and means against plain references in float64; threads do not matter (R3)."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest

from webdistill import clustering
from webdistill.clustering import (
    Clusters,
    assign,
    assign_all,
    fit_projection,
    group_means,
    group_sums,
    kmeans,
    project,
    seed_centroids,
)
from webdistill.core.errors import UserError


def blobs(count: int = 600, width: int = 24, seed: int = 0) -> np.ndarray:
    """Non-negative features like a ReLU's: overlapping groups, a large mean, decaying spectrum;
    float16.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width)) * 2
    x = centres[rng.integers(12, size=count)] + rng.normal(size=(count, width))
    return np.maximum(x * np.exp(-np.arange(width) / 10) + 3, 0).astype(np.float16)


def flat(count: int = 600) -> np.ndarray:
    return project(blobs(count), fit_projection(blobs(count), 6))


@pytest.fixture(params=[7, clustering.CHUNK], ids="chunks of {}".format, autouse=True)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test once with many small chunks and once with the real size."""
    monkeypatch.setattr(clustering, "CHUNK", request.param)
    return int(request.param)


# -- PCA -------------------------------------------------------------------------------------------
def test_pca_equals_a_float64_svd() -> None:
    x = blobs()
    found = fit_projection(x, 6)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(found.mean, x.astype(np.float64).mean(axis=0), atol=1e-6)
    assert np.allclose(np.abs((found.components * rows[:6]).sum(axis=1)), 1, atol=1e-6)
    assert found.explained == pytest.approx((values[:6] ** 2).sum() / (values**2).sum(), abs=1e-6)
    assert np.allclose(found.components @ found.components.T, np.eye(6), atol=1e-6)
    largest = np.abs(found.components).argmax(axis=1)
    assert (found.components[np.arange(6), largest] > 0).all()
    assert np.allclose(
        project(x, found), centred @ found.components.T.astype(np.float64), atol=1e-5
    )


def test_pca_keeps_its_digits_beside_a_large_mean() -> None:
    x = (blobs(seed=1).astype(np.float32) + 1000).astype(np.float32)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    values = np.linalg.svd(exact, compute_uv=False) ** 2
    assert fit_projection(x, 3).explained == pytest.approx(
        values[:3].sum() / values.sum(), rel=1e-6
    )


def test_pca_with_fewer_images_than_dimensions_and_with_constant_features() -> None:
    x = blobs(10, 24)
    found = fit_projection(x, 4)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    rows = np.linalg.svd(centred, full_matrices=False)[2]
    assert np.allclose(np.abs((found.components * rows[:4]).sum(axis=1)), 1, atol=1e-4)
    dead = blobs(50, 8)
    dead[:, 2:] = 0
    assert np.isfinite(project(dead, fit_projection(dead, 5))).all()


def test_features_that_overflowed_are_an_error() -> None:
    x = blobs()
    x[77, 3] = np.inf
    with pytest.raises(UserError, match="not finite; run `dvc repro score` with precision"):
        fit_projection(x, 6)


def test_another_section_is_named() -> None:
    with pytest.raises(UserError, match=r"distill.deconfound.drawn.dims = 25, but the teacher's"):
        fit_projection(blobs(), 25, section="distill.deconfound.drawn")
    with pytest.raises(UserError, match=r"distill.deconfound.drawn.count = 601, but only 600"):
        kmeans(flat(), 601, 9, seed=0, section="distill.deconfound.drawn")


# -- means -----------------------------------------------------------------------------------------
def test_group_means_equal_the_naive_loop() -> None:
    x, labels = blobs(100, 5), np.random.default_rng(1).integers(4, size=100)
    sums = np.zeros((4, 5))
    for row, label in zip(x, labels, strict=True):
        sums[label] += row.astype(np.float64)
    assert np.allclose(group_sums(x, labels, 4), sums, rtol=1e-14)
    assert np.array_equal(
        group_means(x, labels, 4), (sums / np.bincount(labels)[:, None]).astype(np.float32)
    )


# -- k-means ---------------------------------------------------------------------------------------
def squared_distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((x[:, None].astype(np.float64) - centroids.astype(np.float64)) ** 2).sum(axis=2)


def test_the_start_is_drawn_by_squared_distance_to_the_nearest_centroid() -> None:
    x = np.random.default_rng(5).integers(0, 9, size=(200, 3)).astype(np.float32)  # exact sums
    rng = np.random.default_rng(11)
    chosen = [int(rng.integers(200))]
    while len(chosen) < 10:
        nearest = squared_distances(x, x[chosen]).min(axis=1)
        share = rng.random() * nearest.sum()
        chosen.append(next(i for i in range(200) if nearest[: i + 1].sum() > share))
    assert np.array_equal(seed_centroids(x, 10, seed=11), x[chosen])


def test_kmeans_equals_a_naive_lloyd() -> None:
    x = flat()
    centroids = seed_centroids(x, 8, seed=1).astype(np.float64)
    rounds = 0
    labels = squared_distances(x, centroids).argmin(axis=1)
    while True:
        for cluster in range(8):
            centroids[cluster] = x[labels == cluster].astype(np.float64).mean(axis=0)
        now = squared_distances(x, centroids).argmin(axis=1)
        rounds += 1
        if np.array_equal(now, labels):
            break
        labels = now
    found = kmeans(x, 8, 200, seed=1)
    assert rounds > 5
    assert (found.iterations, found.moved, found.refilled) == (rounds, 0, 0)
    order = np.argsort(-np.bincount(labels), kind="stable")
    assert np.array_equal(order[found.labels], labels)
    assert np.allclose(found.centroids, centroids[order], atol=1e-6)


def test_kmeans_ends_at_a_fixed_point() -> None:
    x = flat()
    found = kmeans(x, 8, 200, seed=1)
    assert found.moved == 0
    for cluster in range(8):
        members = x[found.labels == cluster].astype(np.float64)
        assert np.allclose(found.centroids[cluster], members.mean(axis=0), atol=1e-6)
    distances = np.sqrt(squared_distances(x, found.centroids))
    assert np.allclose(found.distances, distances[np.arange(len(x)), found.labels], atol=1e-5)
    assert (found.distances <= distances.min(axis=1) + 1e-4).all()
    sizes = np.bincount(found.labels, minlength=8)
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() > 0


def test_kmeans_finds_well_separated_groups() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), [50, 40, 30, 20, 10])
    x = (np.eye(5)[truth] * 100 + rng.normal(size=(150, 5))).astype(np.float32)
    assert kmeans(x, 5, 50, seed=2).labels.tolist() == truth.tolist()  # largest cluster first


def test_seed_changes_the_start_and_a_cap_stops_early() -> None:
    x = flat()
    one, two = seed_centroids(x, 8, 1), seed_centroids(x, 8, 2)
    assert not np.array_equal(one, two)
    assert len(np.unique(one, axis=0)) == 8
    capped = kmeans(x, 8, 1, seed=1)
    assert capped.iterations == 1
    assert capped.moved > 0
    distances = squared_distances(x, capped.centroids)
    assert (distances[np.arange(len(x)), capped.labels] <= distances.min(axis=1) + 1e-4).all()


def test_empty_clusters_take_the_farthest_points() -> None:
    x = np.array([[0], [1], [2], [10], [50]], dtype=np.float32)
    centroids = np.array([[1], [900], [800]], dtype=np.float32)
    labels, squared, refilled = assign(x, centroids)
    assert labels.tolist() == [0, 0, 0, 2, 1]
    assert squared.tolist() == [1, 0, 1, 0, 0]
    assert centroids[:, 0].tolist() == [1, 50, 10]
    assert refilled == 2


def test_refills_of_all_rounds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x, refills = flat(), []

    def counted(*given: Any) -> tuple[Any, Any, int]:
        done = assign(*given)
        refills.append(done[2])
        return done

    def far_away(*given: Any) -> np.ndarray:
        return np.vstack([x[:2], x[:3] + 1000])

    monkeypatch.setattr(clustering, "assign", counted)
    monkeypatch.setattr(clustering, "seed_centroids", far_away)
    found = kmeans(x, 5, 50, seed=0)
    assert (refills[0], refills[-1]) == (3, 0)
    assert found.refilled == sum(refills)


def test_duplicates_of_few_points_never_leave_a_cluster_empty() -> None:
    x = np.repeat(np.array([[0, 0], [1, 0], [1 + 1e-6, 0], [5, 5]], dtype=np.float32), 30, axis=0)
    assert np.bincount(kmeans(x, 4, 50, seed=0).labels, minlength=4).min() > 0
    with pytest.raises(UserError, match=r"prototypes.count = 5, .* only 4 distinct features"):
        kmeans(x, 5, 50, seed=0)


def test_clusters_of_a_sample_take_in_all_rows_and_stay_where_they_are() -> None:
    x = flat()
    learned = kmeans(x[::3], 8, 100, seed=1)
    found = assign_all(x, learned)
    distances = squared_distances(x, found.centroids)
    assert (found.distances <= np.sqrt(distances.min(axis=1)) + 1e-4).all()
    assert np.allclose(
        found.distances, np.sqrt(distances[np.arange(len(x)), found.labels]), atol=1e-5
    )
    assert sorted(map(tuple, found.centroids)) == sorted(map(tuple, learned.centroids))
    sizes = np.bincount(found.labels, minlength=8)
    assert (np.diff(sizes) <= 0).all()
    assert (found.iterations, found.moved) == (learned.iterations, learned.moved)


def test_a_sample_s_cluster_that_no_row_is_nearest_to_is_refilled() -> None:
    x = np.array([[0], [1], [9]], dtype=np.float32)
    nothing = np.zeros(0, dtype=np.int32)
    far = np.array([[0], [500]], dtype=np.float32)
    found = assign_all(x, Clusters(far, nothing, nothing.astype(np.float32), 4, 0, 1))
    assert found.labels.tolist() == [0, 0, 1]
    assert found.centroids.tolist() == [[0], [9]]
    assert found.refilled == 2
    assert far.tolist() == [[0], [500]]  # what was learned is not written to


# -- threads ---------------------------------------------------------------------------------------
def test_chunks_come_in_their_order_whichever_is_done_first(chunk: int) -> None:
    def late(part: slice) -> tuple[int, int]:
        time.sleep(0.002 if part.start % (2 * chunk) == 0 else 0.0)
        return part.start, part.stop

    rows = 10 * chunk + 3
    found = list(clustering._in_chunks(late, rows, threads=4))
    assert found == [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def test_the_number_of_threads_changes_no_bit(chunk: int) -> None:
    x = blobs(min(60 * chunk, 6000), 300)
    found = []
    for threads in (1, 2, 8):
        fitted = fit_projection(x, 20, threads=threads)
        reduced = project(x, fitted, threads)
        clusters = kmeans(reduced, 40, 5, seed=0, threads=threads)
        everything = (
            fitted.mean, fitted.components, reduced, clusters.centroids, clusters.labels, clusters.distances,
            group_means(x, clusters.labels, 40, threads), assign_all(reduced[::-1], clusters, threads).labels,
        )  # fmt: skip
        found.append([each.tobytes() for each in everything])
    assert found[0] == found[1] == found[2]


def test_thread_counts_of_the_process_are_restored() -> None:
    import faiss
    from threadpoolctl import threadpool_info, threadpool_limits

    def at_work() -> set[int]:
        """Threads of the libraries that clustering uses; others may be loaded at any time."""
        ours = [each for each in threadpool_info() if re.search("numpy|faiss", each["filepath"])]
        assert len(ours) > 1
        return {each["num_threads"] for each in ours}

    with threadpool_limits(2):
        before = threadpool_info()
        assert faiss.omp_get_max_threads() == 2
        with clustering.one_thread():
            assert at_work() == {1}
            assert faiss.omp_get_max_threads() == 1
        assert threadpool_info() == before
