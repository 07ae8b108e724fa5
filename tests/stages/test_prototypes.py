"""Prototypes: references for PCA, k-means, means; same bytes for any threads, rows, shards (R3)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from stages.prototypes.__main__ import main
from stages.prototypes.dictionary import class_entropy
from stages.prototypes.params import Prototypes
from webdistill import clustering
from webdistill.clustering import (
    assign,
    fit_projection,
    group_means,
    group_sums,
    kmeans,
    project,
)
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, write_manifest, write_table
from webdistill.core.params import Params, Task
from webdistill.core.stage import Stage

SETTINGS = {"space": "features", "count": 8, "dims": 6, "iterations": 100}


def blobs(count: int = 600, width: int = 24, seed: int = 0) -> np.ndarray:
    """Non-negative features like a ReLU's: overlapping groups, a large mean, decaying spectrum;
    float16.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width)) * 2
    x = centres[rng.integers(12, size=count)] + rng.normal(size=(count, width))
    return np.maximum(x * np.exp(-np.arange(width) / 10) + 3, 0).astype(np.float16)


def make_cell(cell: Path, x: np.ndarray, order: np.ndarray, cuts: list[int]) -> None:
    """A selection of two thirds of the rows of x, with rows in `order` and shards cut at `cuts`."""
    ids = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(len(x))]
    folder = cell / "score" / "teacher"
    folder.mkdir(parents=True)
    for number, part in enumerate(np.split(order, cuts)):
        columns = {"id": [ids[i] for i in part]}
        for name, values in (("features", x), ("logits", x[:, :3])):
            flat = pa.array(values[part].ravel())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        write_table(
            pa.table(columns), folder / f"{number:05d}.parquet", {"teacher_sha256": "ab" * 32}
        )
    write_manifest(folder)
    chosen = [i for i in order[::-1] if i % 3]
    selection = {
        "id": [ids[i] for i in chosen],
        "teacher_class": pa.array([i % 5 for i in chosen], pa.int32()),
    }
    (cell / "select").mkdir()
    write_table(pa.table(selection), cell / "select" / "selection.parquet")


def run_stage(cell: Path, **changes: Any) -> None:
    task = Task(
        seed=3,
        threads=1,
        classes=("a", "b"),
        image_size=8,
        teacher="t",
        test_images="i",
        test_labels="l",
    )
    settings = Prototypes.model_validate(SETTINGS | changes)
    stage = Stage("prototypes", Params(task, {"prototypes": settings}, {}), cell)
    main(stage)
    stage.publish()


def test_pca_equals_a_float64_svd() -> None:
    x = blobs()
    found = fit_projection(x, 6)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(found.mean, x.astype(np.float64).mean(axis=0), atol=1e-6)
    assert np.allclose(np.abs((found.components * rows[:6]).sum(axis=1)), 1, atol=1e-5)
    assert found.explained == pytest.approx((values[:6] ** 2).sum() / (values**2).sum(), abs=1e-5)
    assert np.allclose(found.components @ found.components.T, np.eye(6), atol=1e-5)
    largest = np.abs(found.components).argmax(axis=1)
    assert (found.components[np.arange(6), largest] > 0).all()
    assert np.allclose(
        project(x, found), centred @ found.components.T.astype(np.float64), atol=1e-4
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


@pytest.mark.parametrize("chunk", [7, 16_384])
def test_group_means_equal_the_naive_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", chunk)
    x, labels = blobs(100, 5), np.random.default_rng(1).integers(4, size=100)
    sums = np.zeros((4, 5))
    for row, label in zip(x, labels, strict=True):
        sums[label] += row.astype(np.float64)
    assert np.allclose(group_sums(x, labels, 4), sums, rtol=1e-14)
    assert np.array_equal(
        group_means(x, labels, 4), (sums / np.bincount(labels)[:, None]).astype(np.float32)
    )


def test_kmeans_ends_at_a_fixed_point() -> None:
    x = project(blobs(), fit_projection(blobs(), 6))
    found = kmeans(x, 8, 200, seed=1)
    assert found.moved == 0
    exact = x.astype(np.float64)
    for cluster in range(8):
        members = exact[found.labels == cluster]
        assert np.allclose(found.centroids[cluster], members.mean(axis=0), atol=1e-6)
    distances = np.sqrt(((exact[:, None] - found.centroids.astype(np.float64)) ** 2).sum(axis=2))
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
    x = project(blobs(), fit_projection(blobs(), 6))
    one, two = clustering.seed_centroids(x, 8, 1), clustering.seed_centroids(x, 8, 2)
    assert not np.array_equal(one, two)
    assert len(np.unique(one, axis=0)) == 8
    capped = kmeans(x, 8, 1, seed=1)
    assert capped.iterations == 1
    assert capped.moved > 0
    distances = ((x[:, None].astype(np.float64) - capped.centroids) ** 2).sum(axis=2)
    assert (distances[np.arange(len(x)), capped.labels] <= distances.min(axis=1) + 1e-4).all()


def test_empty_clusters_take_the_farthest_points() -> None:
    x = np.array([[0], [1], [2], [10], [50]], dtype=np.float32)
    centroids = np.array([[1], [900], [800]], dtype=np.float32)
    labels, squared = assign(x, centroids)
    assert labels.tolist() == [0, 0, 0, 2, 1]
    assert squared.tolist() == [1, 0, 1, 0, 0]
    assert centroids[:, 0].tolist() == [1, 50, 10]


def test_duplicates_of_few_points_never_leave_a_cluster_empty() -> None:
    x = np.repeat(np.array([[0, 0], [1, 0], [1 + 1e-6, 0], [5, 5]], dtype=np.float32), 30, axis=0)
    assert np.bincount(kmeans(x, 4, 50, seed=0).labels, minlength=4).min() > 0
    with pytest.raises(UserError, match=r"prototypes.count = 5, .* only 4 distinct features"):
        kmeans(x, 5, 50, seed=0)


def test_class_entropy_of_pure_and_even_clusters() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    entropy = class_entropy(labels, np.array([3, 3, 0, 1, 2, 3]), 2)
    assert entropy.tolist() == pytest.approx([0, np.log(4)])


def test_the_stage_writes_what_the_contract_says(tmp_path: Path) -> None:
    x = blobs(300)
    make_cell(tmp_path, x, np.arange(300), [200])
    run_stage(tmp_path)
    out = tmp_path / "prototypes"
    tensors = load_file(out / "prototypes.safetensors")
    assert {k: v.shape for k, v in tensors.items()} == {
        "prototypes": (8, 24),
        "prior": (8,),
        "pca_mean": (24,),
        "pca_components": (6, 24),
        "centroids": (8, 6),
    }
    assert all(v.dtype == np.float32 for v in tensors.values())
    assert tensors["prior"].sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    with safe_open(out / "prototypes.safetensors", "numpy") as file:
        facts = json.loads(file.metadata()["webdistill"])
    assert facts == {"space": "features", "teacher_sha256": "ab" * 32}

    rows = read_table(out / "assignment.parquet").to_pylist()
    place = {hashlib.sha256(str(i).encode()).hexdigest()[:32]: i for i in range(300)}
    assert len(rows) == 200
    for number in range(8):  # each prototype is the plain mean of its images' features
        mine = [r for r in rows if r["prototype"] == number]
        members = x[[place[r["id"]] for r in mine]].astype(np.float64)
        assert np.allclose(tensors["prototypes"][number], members.mean(axis=0), atol=1e-6)
        assert tensors["prior"][number] == pytest.approx(len(mine) / 200)
        flat = (members - tensors["pca_mean"]) @ tensors["pca_components"].T
        distance = np.linalg.norm(flat - tensors["centroids"][number], axis=1)
        assert [r["distance"] for r in mine] == pytest.approx(distance.tolist(), abs=1e-4)
    metrics = read_json(out / "metrics.json")
    assert metrics["images"] == 200
    assert metrics["inertia"] == pytest.approx(sum(r["distance"] ** 2 for r in rows), rel=1e-4)
    assert (
        1 <= metrics["smallest_cluster"] <= metrics["median_cluster"] <= metrics["largest_cluster"]
    )
    assert 0 < metrics["mean_class_entropy"] <= np.log(5)


def test_logits_are_another_space(tmp_path: Path) -> None:
    make_cell(tmp_path, blobs(90), np.arange(90), [40])
    run_stage(tmp_path, space="logits", dims=3)
    assert load_file(tmp_path / "prototypes" / "prototypes.safetensors")["prototypes"].shape == (
        8,
        3,
    )


def outputs(cell: Path) -> list[bytes]:
    names = ("prototypes.safetensors", "assignment.parquet", "metrics.json")
    return [(cell / "prototypes" / name).read_bytes() for name in names]


def test_rows_and_shards_do_not_matter(tmp_path: Path) -> None:
    x = blobs(1500)
    found = []
    for name, seed, cuts in (("a", None, [1000]), ("b", 1, [10, 700]), ("c", 2, [])):
        order = np.arange(1500) if seed is None else np.random.default_rng(seed).permutation(1500)
        make_cell(tmp_path / name, x, order, cuts)
        run_stage(tmp_path / name, count=40)
        found.append(outputs(tmp_path / name))
    assert found[0] == found[1] == found[2]


PROGRAM = """
import os, sys
from pathlib import Path
import faiss
faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
sys.path.insert(0, sys.argv[2])
from test_prototypes import run_stage
run_stage(Path(sys.argv[1]), count=40, dims=20)
"""


def test_threads_do_not_matter(tmp_path: Path) -> None:
    x = blobs(6000, 64)  # without the pinning, the bytes differ at this size
    found = []
    for threads in ("1", "2", "8"):
        cell = tmp_path / threads
        make_cell(cell, x, np.arange(6000), [4000])
        variables = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads
        )
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(cell), str(Path(__file__).parent)],
            check=True,
            env=os.environ | variables,
            timeout=120,
        )
        found.append(outputs(cell))
    assert found[0] == found[1] == found[2]


def test_thread_count_of_the_process_is_restored() -> None:
    import faiss

    faiss.omp_set_num_threads(2)
    with clustering.one_thread():
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == 2
    faiss.omp_set_num_threads(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 21}, "prototypes.count = 21, but only 20 images are selected"),
        ({"dims": 25}, "prototypes.dims = 25, but the teacher's space has 24 dimensions"),
        ({"dims": 22}, "prototypes.dims = 22, but only 20 images are selected"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    make_cell(tmp_path, blobs(30), np.arange(30), [11])
    with pytest.raises(UserError, match=message):
        run_stage(tmp_path, **changes)


def test_a_selected_image_without_features_is_named(tmp_path: Path) -> None:
    make_cell(tmp_path, blobs(30), np.arange(30), [11])
    stray = pa.table({"id": ["f" * 32], "teacher_class": pa.array([0], pa.int32())})
    write_table(stray, tmp_path / "select" / "selection.parquet")
    with pytest.raises(UserError, match=r"selected image f{32} is in no shard"):
        run_stage(tmp_path)
