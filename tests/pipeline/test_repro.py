"""The whole DAG, for real, on 60 candidates (promises R1, S8)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.params import STAGES, read_yaml

if TYPE_CHECKING:
    from tests.small_project import Project


def lock(project: Project) -> dict[str, Any]:
    found = read_yaml(project.root / "dvc.lock")["stages"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def built(small_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return small_project.copy(tmp_path_factory.mktemp("repro") / "project")


@pytest.mark.slow
def test_a_method_that_makes_its_images_needs_no_candidate(tmp_path: Path) -> None:
    """`dvc repro` of an empty list; a method that learns from images says what it lacks, in one line."""
    from tests.small_project import create, set_params

    project = create(tmp_path / "project", candidates=0)
    set_params(project.root, ["distill.method=dafl", "distill.steps_per_epoch=2"])
    project.run("dvc", "repro")
    assert set(lock(project)) == set(STAGES)
    report = (project.root / "data/report/report.html").read_text()
    assert "images that the method made itself" in report
    assert "dafl makes its own" in report
    assert [each.name for each in (project.root / "data/distill/pictures").glob("*.png")] == [
        "over_training.png"
    ]
    assert json.loads((project.root / "data/distill/metrics.json").read_text())["images"] == 0
    set_params(project.root, ["distill.method=kd"])
    done = project.run("dvc", "repro", "distill", check=False)
    assert done.returncode
    assert "no image was selected, and distill.method = kd learns from images" in done.stderr


def test_every_stage_ran_and_left_its_outputs(built: Project) -> None:
    assert set(lock(built)) == set(STAGES)
    measured = json.loads((built.root / "data/evaluate/metrics.json").read_text())
    assert 0 <= measured["top1"] <= 1
    assert (built.root / "data/report/report.html").stat().st_size > 10_000
    assert not list((built.root / ".work").rglob("out/*"))


def test_the_ledger_accounts_for_every_candidate(built: Project) -> None:
    import pyarrow.parquet as pq

    ledger = pq.read_table(built.root / "data/fetch/ledger.parquet")
    assert ledger.num_rows == pq.read_table(built.root / "data/search/candidates.parquet").num_rows
    kept = pq.read_table(built.root / "data/filter/kept.parquet").num_rows
    dropped = pq.read_table(built.root / "data/filter/dropped.parquet").num_rows
    assert kept + dropped == ledger["status"].to_pylist().count("ok")


def test_a_second_repro_runs_nothing(built: Project) -> None:
    begun = time.monotonic()
    done = built.run("dvc", "repro")
    assert "Running stage" not in done.stdout + done.stderr
    assert "up to date" in done.stdout + done.stderr
    assert time.monotonic() - begun < 60


def test_a_filter_threshold_reruns_from_filter_on_and_fetches_nothing(built: Project) -> None:
    before = lock(built)
    params = built.root / "params.yaml"
    text = params.read_text()
    try:
        params.write_text(text.replace("min_score: -1.0", "min_score: 0.0"))
        assert params.read_text() != text
        done = built.run("dvc", "repro", "filter")
        ran = {name for name in STAGES if f"Running stage '{name}'" in done.stdout + done.stderr}
        assert ran == {"filter"}
        assert lock(built)["fetch"] == before["fetch"]
    finally:
        params.write_text(text)


@pytest.mark.slow
def test_two_runs_from_scratch_give_the_same_lock(built: Project) -> None:
    """Promise R1; on two threads; the second run with two stages at once, so in another order."""
    from tests.small_project import set_params

    set_params(built.root, ["task.threads=2"])
    built.run("dvc", "repro")
    first = lock(built)
    built.forget()
    done = built.run("python", "-m", "webdistill", "repro", "-j", "2")
    started = [line.split()[1] for line in done.stderr.splitlines() if line.endswith(" started")]
    assert started[:2] == ["search", "fetch"]
    assert set(started[2:4]) == {"embed", "score"}
    assert "10 stages in" in done.stdout
    assert lock(built) == first  # parsed: DVC writes the stages in varying order


def test_an_altered_shard_is_refused_by_name(built: Project) -> None:
    """Promise S4: DVC checks out a damaged cache object without complaint; the next stage does not."""
    shard = next((built.root / "data/fetch/pool").glob("*.parquet"))
    data = shard.read_bytes()
    try:
        shard.chmod(0o644)
        shard.write_bytes(data[:-100])
        done = built.run("python", "-m", "stages.score", check=False)
        assert done.returncode == 2
        assert shard.name in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        shard.write_bytes(data)


@pytest.mark.slow
def test_without_the_labels_everything_before_evaluate_runs(built: Project) -> None:
    """Promise T1: with a folder in the place of the labels, which nobody can read, the same bytes as with them."""
    labels = built.root / "data/quickstart/test/labels.parquet"
    away = Path(f"{labels}.away")
    stages = ("embed", "filter", "score", "select", "prototypes", "distill")
    labels.rename(away)
    try:
        labels.mkdir()
        for stage in stages:
            built.run("python", "-m", f"stages.{stage}")
            for out in lock(built)[stage]["outs"]:
                assert dvc_hash(built.root / out["path"], built.root, afresh=True) == out["md5"], (
                    out
                )
        labels.rmdir()
        done = built.run("python", "-m", "stages.evaluate", check=False)
        assert done.returncode == 2
        assert "labels.parquet" in done.stderr
    finally:
        if labels.is_dir():
            labels.rmdir()
        away.rename(labels)
