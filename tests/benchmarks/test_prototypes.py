"""The benchmark of the clustering judges all variants by one measure, and its program runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clusterings import VARIANTS, Setting, features, judge, ours
from benchmarks.prototypes import LABELS
from tests.benchmarks.programs import run

pytestmark = pytest.mark.slow
SETTING = Setting(images=4000, width=20, count=6, dims=5, iterations=50, threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("features") / "features.npy"
    features(SETTING, target)
    return target


def test_the_features_are_a_mixture_of_unequal_groups_cut_at_zero(data: Path) -> None:
    x = np.load(data)
    assert (x.dtype, x.shape) == (np.float16, (4000, 20))
    assert x.min() == 0
    assert 0.05 < (x == 0).mean() < 0.6
    distances = ((x[:, None].astype(np.float32) - x[:200].astype(np.float32)) ** 2).sum(axis=2)
    close = (distances < 0.5 * distances.mean()).sum(axis=0)
    assert close.max() > 3 * close.min()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_clusters_all_images(name: str, data: Path) -> None:
    if name == "sklearn":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x = np.load(data)
    found = VARIANTS[name](x, SETTING)
    assert found.labels.shape == (4000,)
    assert found.centroids.shape == found.prototypes.shape == (6, 20)
    for cluster in np.unique(found.labels):
        mean = x[found.labels == cluster].astype(np.float64).mean(axis=0)
        assert np.allclose(found.prototypes[cluster], mean, atol=1e-5)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:5]
    flat = (found.centroids - x.astype(np.float64).mean(axis=0)) @ axes.T
    nearest = ((centred @ axes.T)[:, None] - flat) ** 2
    assert (nearest.sum(axis=2).argmin(axis=1) == found.labels).mean() > 0.97


def test_the_judge_counts_as_a_naive_loop_does(data: Path, tmp_path: Path) -> None:
    x = np.load(data).astype(np.float64)
    mean = x.mean(axis=0)
    good = ours(np.load(data), SETTING).centroids
    lost = good.copy()
    lost[2] += 1000  # nobody's nearest
    for name, centroids in (("good", good), ("lost", lost)):
        np.save(tmp_path / f"{name}.npy", centroids)
    found = judge(data, SETTING, {name: tmp_path / f"{name}.npy" for name in ("good", "lost")})
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:5]
    for name, centroids in (("good", good), ("lost", lost)):
        distances = (((x - mean) @ axes.T)[:, None] - (centroids - mean) @ axes.T) ** 2
        nearest = distances.sum(axis=2)
        sizes = np.bincount(nearest.argmin(axis=1), minlength=6)
        assert found[name]["inertia"] == pytest.approx(nearest.min(axis=1).sum(), rel=1e-5)
        assert found[name]["smallest"] == pytest.approx(sizes.min(), abs=3)
        assert found[name]["empty"] == (sizes == 0).sum()
    assert (found["good"]["empty"], found["lost"]["empty"]) == (0, 1)


def test_every_variant_has_a_label() -> None:
    assert list(LABELS) == list(VARIANTS)


def test_the_program_prints_a_table_and_writes_the_same_numbers(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(
        "prototypes",
        "--images", "3000", "--width", "16", "--count", "8", "--dims", "4", "--iterations", "5", "--threads", "1",
        "--repeat", "2", "--variants", "ours", "faiss", "--out", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["results"]
    assert list(found) == ["ours", "faiss"]
    assert (found["ours"]["time_ratio"], found["ours"]["inertia_ratio"]) == (1, 1)
    ratio = found["faiss"]["inertia"] / found["ours"]["inertia"]
    assert found["faiss"]["inertia_ratio"] == pytest.approx(ratio)
    for name, one in found.items():
        assert len(one["seconds"]) == 2
        assert one["peak_mib"] > 20
        line = next(line for line in done.stdout.splitlines() if f"| {LABELS[name]} |" in line)
        assert f"| {one['peak_mib']:.0f} | {one['inertia_ratio']:.4f} | {one['smallest']} |" in line


def test_sizes_that_do_not_fit_are_an_error_of_one_line() -> None:
    done = run("prototypes", "--images", "100", "--count", "11")
    assert done.returncode == 2
    assert "--images must be at least 10 x --count" in done.stderr.splitlines()[-1]
