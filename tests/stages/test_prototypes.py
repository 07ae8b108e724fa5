"""Prototypes: the files against naive computation; same bytes for any threads, rows, shards (R3)."""

from __future__ import annotations

import csv
import hashlib
import json
import math
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
from stages.prototypes.dictionary import sample
from stages.prototypes.params import Prototypes
from stages.prototypes.quality import class_mix, entropy
from tests.core.test_clustering import blobs
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, write_manifest, write_table
from webdistill.harness.params import Params, Task, load
from webdistill.harness.stage import Stage

SETTINGS = {"space": "features", "count": 8, "dims": 6, "iterations": 100, "sample": None}
ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", 'a "frog", green', "horse", "ship")


def make_cell(cell: Path, x: np.ndarray, order: np.ndarray, cuts: list[int]) -> None:
    """A selection of two thirds of the rows of x, with rows in `order` and shards cut at `cuts`."""
    ids = [image_id(i) for i in range(len(x))]
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


def run_stage(
    cell: Path,
    threads: int = 1,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 3,
    **changes: Any,
) -> None:
    task = Task(
        seed=seed,
        threads=threads,
        classes=classes,
        image_size=8,
        teacher="t",
        test_images="i",
        test_labels="l",
    )
    settings = Prototypes.model_validate(SETTINGS | changes)
    stage = Stage("prototypes", Params(task, {"prototypes": settings}, {}), cell)
    main(stage)
    stage.publish()


def image_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def test_class_entropy_of_pure_and_even_clusters() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    mix = class_mix(labels, np.array([3, 3, 0, 1, 2, 3]), 2)
    assert mix.tolist() == [[0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25]]
    assert entropy(mix).tolist() == pytest.approx([0, np.log(4)])
    assert not np.signbit(entropy(mix)).any()


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
    place = {image_id(i): i for i in range(300)}
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
    assert metrics["images"] == metrics["sampled"] == 200
    assert metrics["empty_refilled"] == metrics["moved_in_last_iteration"] == 0
    assert metrics["inertia"] == pytest.approx(sum(r["distance"] ** 2 for r in rows), rel=1e-4)
    assert (
        1 <= metrics["smallest_cluster"] <= metrics["median_cluster"] <= metrics["largest_cluster"]
    )
    assert 0 < metrics["mean_class_entropy"] <= np.log(5)


def test_other_dictionaries_noise_of_equal_size_and_nothing(tmp_path: Path) -> None:
    x = blobs()
    found = []
    for number, seed in enumerate((0, 0, 1)):
        cell = tmp_path / str(number)
        make_cell(cell, x, np.arange(len(x)), [len(x)])
        run_stage(cell, seed=seed, count=64)
        found.append(load_file(cell / "prototypes" / "random.safetensors")["prototypes"])
        for name in ("none", "drawn", "constant"):
            assert load_file(cell / "prototypes" / f"{name}.safetensors") == {}
    assert (found[0] == found[1]).all()
    assert not np.isclose(found[0], found[2]).all(1).any()
    prototypes = load_file(tmp_path / "0/prototypes/prototypes.safetensors")
    noise = load_file(tmp_path / "0/prototypes/random.safetensors")
    assert (noise["prior"] == prototypes["prior"]).all()
    points = prototypes["prototypes"]
    far = np.abs(found[0].mean(0) - points.mean(0)) / points.std(0)
    assert far.max() < 5 / np.sqrt(len(points))
    assert np.abs(found[0].std(0) / points.std(0) - 1).max() < 0.5


def test_logits_are_another_space(tmp_path: Path) -> None:
    make_cell(tmp_path, blobs(90), np.arange(90), [40])
    run_stage(tmp_path, space="logits", dims=3)
    assert load_file(tmp_path / "prototypes" / "prototypes.safetensors")["prototypes"].shape == (
        8,
        3,
    )


def test_clusters_csv_equals_a_naive_count(tmp_path: Path) -> None:
    make_cell(tmp_path, blobs(300), np.arange(300), [200])
    run_stage(tmp_path)
    number_of = {image_id(i): i for i in range(300)}
    images = read_table(tmp_path / "prototypes" / "assignment.parquet").to_pylist()
    with (tmp_path / "prototypes" / "clusters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for number, row in enumerate(rows):
        mine = [each for each in images if each["prototype"] == number]
        classes = [number_of[each["id"]] % 5 for each in mine]
        shares = [classes.count(k) / len(mine) for k in range(5)]
        assert (int(row["prototype"]), int(row["images"])) == (number, len(mine))
        assert float(row["prior"]) == pytest.approx(len(mine) / 200, abs=1e-6)
        mean = sum(each["distance"] for each in mine) / len(mine)
        assert float(row["mean_distance"]) == pytest.approx(mean, abs=1e-5)
        mixed = -sum(share * math.log(share) for share in shares if share)
        assert float(row["class_entropy"]) == pytest.approx(mixed, abs=1e-6)
        assert row["top_class"] == CLASSES[shares.index(max(shares))]
        assert float(row["top_share"]) == pytest.approx(max(shares), abs=1e-6)
    sizes = [int(row["images"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    weighted = sum(float(row["class_entropy"]) * int(row["images"]) for row in rows) / 200
    metrics = read_json(tmp_path / "prototypes" / "metrics.json")
    assert metrics["mean_class_entropy"] == pytest.approx(weighted, abs=1e-6)
    assert (metrics["largest_cluster"], metrics["smallest_cluster"]) == (sizes[0], sizes[-1])


def test_a_sample_teaches_and_every_image_is_assigned(tmp_path: Path) -> None:
    x = blobs(900)
    make_cell(tmp_path, x, np.random.default_rng(4).permutation(900), [500])
    run_stage(tmp_path, sample=60)
    out = tmp_path / "prototypes"
    tensors = load_file(out / "prototypes.safetensors")
    rows = read_table(out / "assignment.parquet").to_pylist()
    number_of = {image_id(i): i for i in range(900)}
    selected = x[[number_of[each["id"]] for each in rows]].astype(np.float64)
    metrics = read_json(out / "metrics.json")
    assert (len(rows), metrics["images"], metrics["sampled"]) == (600, 600, 60)

    learned = selected[sample(600, 60, seed=3)]
    assert np.allclose(tensors["pca_mean"], learned.mean(axis=0), atol=1e-6)
    axes = np.linalg.svd(learned - learned.mean(axis=0), full_matrices=False)[2][:6]
    assert np.allclose(np.abs((axes * tensors["pca_components"]).sum(axis=1)), 1, atol=1e-5)
    centroids = tensors["centroids"].astype(np.float64)

    def nearest(images: np.ndarray) -> np.ndarray:
        reduced = (images - tensors["pca_mean"]) @ tensors["pca_components"].T.astype(np.float64)
        return ((reduced[:, None] - centroids) ** 2).sum(axis=2)

    labels = np.array([each["prototype"] for each in rows])
    assert np.array_equal(labels, nearest(selected).argmin(axis=1))
    assert tensors["prior"].sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    reduced = (learned - tensors["pca_mean"]) @ tensors["pca_components"].T.astype(np.float64)
    for number in range(8):  # centroids are of the sample, prototypes and priors of all images
        taught = reduced[nearest(learned).argmin(axis=1) == number]
        assert np.allclose(centroids[number], taught.mean(axis=0), atol=1e-4)
        mine = selected[labels == number]
        assert np.allclose(tensors["prototypes"][number], mine.mean(axis=0), atol=1e-6)
        assert tensors["prior"][number] == pytest.approx(len(mine) / 600)


def test_a_sample_is_drawn_by_the_seed_without_repetition() -> None:
    drawn = sample(1000, 300, seed=3)
    assert drawn is not None
    assert (np.diff(drawn) > 0).all()
    assert (len(drawn), drawn.min() >= 0, drawn.max() < 1000) == (300, True, True)
    assert 400 < drawn.mean() < 600
    assert np.array_equal(drawn, sample(1000, 300, seed=3))
    assert not np.array_equal(drawn, sample(1000, 300, seed=4))


def test_a_sample_of_all_images_is_no_sample(tmp_path: Path) -> None:
    found = []
    for size in (None, 200, 201, 199):
        cell = tmp_path / str(size)
        make_cell(cell, blobs(300), np.arange(300), [200])
        run_stage(cell, sample=size)
        found.append(outputs(cell))
    assert found[0] == found[1] == found[2]
    assert found[3] != found[0]


def outputs(cell: Path) -> list[bytes]:
    names = ("prototypes.safetensors", "assignment.parquet", "clusters.csv", "metrics.json")
    return [(cell / "prototypes" / name).read_bytes() for name in names]


@pytest.mark.parametrize("size", [None, 500])
def test_rows_and_shards_do_not_matter(tmp_path: Path, size: int | None) -> None:
    x = blobs(1500)
    found = []
    for name, seed, cuts in (("a", None, [1000]), ("b", 1, [10, 700]), ("c", 2, [])):
        order = np.arange(1500) if seed is None else np.random.default_rng(seed).permutation(1500)
        make_cell(tmp_path / name, x, order, cuts)
        run_stage(tmp_path / name, count=40, sample=size)
        found.append(outputs(tmp_path / name))
    assert found[0] == found[1] == found[2]


PROGRAM = """
import os, sys
from pathlib import Path
import faiss
faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
sys.path.insert(0, sys.argv[2])
from test_prototypes import run_stage
run_stage(Path(sys.argv[1]), int(sys.argv[3]), count=40, dims=400, iterations=3)
"""


def test_threads_do_not_matter(tmp_path: Path) -> None:
    # LAPACK: without the pinning, the bytes differ for these
    x = np.abs(np.random.default_rng(0).normal(size=(6500, 512))).astype(np.float16)
    found = []
    for threads in ("1", "2", "8"):
        cell = tmp_path / threads
        make_cell(cell, x, np.arange(6500), [4000])
        variables = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads
        )
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(cell), str(Path(__file__).parent), threads],
            check=True,
            env=os.environ | variables,
            timeout=120,
        )
        found.append(outputs(cell))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 21}, "prototypes.count = 21, but only 20 images are selected"),
        ({"dims": 25}, "prototypes.dims = 25, but the teacher's space has 24 dimensions"),
        ({"dims": 22}, "prototypes.dims = 22, but only 20 images are selected"),
        ({"classes": ("a", "b")}, "has teacher class 4, but task.classes names 2; run `dvc repro"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make_cell(tmp_path, blobs(30), np.arange(30), [11])
    with pytest.raises(UserError, match=message):
        run_stage(tmp_path, **changes)


def test_a_selected_image_without_features_is_named(tmp_path: Path) -> None:
    make_cell(tmp_path, blobs(30), np.arange(30), [11])
    stray = pa.table({"id": ["f" * 32], "teacher_class": pa.array([0], pa.int32())})
    write_table(stray, tmp_path / "select" / "selection.parquet")
    with pytest.raises(UserError, match=r"selected image f{32} is in no shard"):
        run_stage(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sample=63", "sample = 63 is less than count = 64; raise it, or null for all images"),
        ("sample=80", "sample = 80 is less than dims = 100; raise it, or null for all images"),
        ("sample=1", "prototypes.sample = 1: input should be greater than or equal to 2"),
    ],
)
def test_a_sample_that_is_too_small_is_one_line_before_any_work(given: str, message: str) -> None:
    overrides = ["prototypes.count=64", "prototypes.dims=100", f"prototypes.{given}"]
    with pytest.raises(UserError) as error:
        load(ROOT / "params.yaml", overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
