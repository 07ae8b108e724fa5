"""Which runs a real DVC project leaves in MLflow: stages that ran, links for those that did not, nothing else."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from webdistill.core.errors import UserError
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.tracking import links
from webdistill.tracking.store import NOTE_TAG

if TYPE_CHECKING:
    from conftest import Project

ALL = {"search", "filter", "distill", "evaluate", "report"}
# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def cached(*stages: str) -> set[str]:
    return {f"{stage} (cached)" for stage in stages}


def test_a_changed_parameter_makes_one_experiment_with_all_columns(project: Project) -> None:
    project.set("  epochs: 2\n", "  epochs: 3\n")
    project.ran("dvc", "repro")
    tree = project.tree()
    (first, second), (ran, again) = tree.parents, tree.below
    assert set(ran) == ALL
    assert set(again) == {"distill", "evaluate", "report"} | cached("search", "filter")
    assert first.info.status == second.info.status == "FINISHED"
    costs = {
        f"system/{stage}.{name}"
        for stage in ("search", "filter")
        for name in ("seconds", "peak_memory_mib")
    }
    assert set(first.data.metrics) - set(second.data.metrics) == costs  # it took nothing this time
    assert second.data.metrics["filter.kept"] == 40
    assert second.data.metrics["distill.loss"] == pytest.approx(2 / 3.1)
    assert second.data.metrics["system/evaluate.latency_ms"] == 1.5
    for stage in ("search", "filter"):
        link, maker = again[f"{stage} (cached)"], ran[stage]
        assert link.data.tags[links.MAKER_TAG] == maker.info.run_id
        assert f"/runs/{maker.info.run_id})" in link.data.tags[NOTE_TAG]
        measured = {key for key in maker.data.metrics if not key.startswith("system/")}
        assert set(link.data.metrics) == measured
    note = second.data.tags[NOTE_TAG]
    assert "`distill.epochs` 2 → 3" in note
    assert f"**{second.data.metrics['evaluate.top1']:.1%}** top-1" in note
    assert "outputs as before" in note

    assert all(NOTE_TAG in run.data.tags for run in [*ran.values(), *again.values()])

    headline = {key: second.data.metrics[key] for key in ("accuracy", "images", "minutes")}
    took = [
        (again if stage in again else ran)[stage].data.metrics["system/seconds"] for stage in ALL
    ]
    assert headline == {
        "accuracy": second.data.metrics["evaluate.top1"],
        "images": second.data.metrics["distill.images"],
        "minutes": pytest.approx(sum(took) / 60, abs=0.006),  # what is cached counts as when it ran
    }

    _digests_are_those_of_dvc_lock(project, again)
    project.set("  epochs: 3\n", "  epochs: 2\n")
    with pytest.raises(
        UserError, match=r"stage 'distill' is not up to date: params\.yaml: distill;"
    ):
        project.track()
    project.ran("dvc", "repro")  # everything from the run cache
    project.track()
    assert project.tree().ids == tree.ids


def _digests_are_those_of_dvc_lock(project: Project, below: dict[str, Any]) -> None:
    lock = links.read_lock((project.root / "dvc.lock").read_text())
    assert set(lock) == ALL
    for stage in lock.values():
        for path, digest in stage.outputs.items():
            assert dvc_hash(project.root / path, project.root) == digest
    datasets = {d.dataset.name: d.dataset.digest for d in below["evaluate"].inputs.dataset_inputs}
    assert datasets["data/distill/student"] == lock["distill"].outputs["data/distill/student"]
    assert datasets["data/distill/student"].endswith(".dir")
    made = lock["evaluate"].outputs["data/evaluate/metrics.json"]
    assert datasets["data/evaluate/metrics.json"] == made


@pytest.mark.slow
def test_experiments_of_dvc_here_queued_and_from_the_run_cache(project: Project) -> None:
    """`dvc queue` works in throw-away copies of the project."""
    project.ran("dvc", "exp", "run", "-n", "longer", "-S", "distill.epochs=3")
    for name, epochs in (("queued-a", 4), ("queued-b", 5)):
        project.run("dvc", "exp", "run", "--queue", "-n", name, "-S", f"distill.epochs={epochs}")
    project.run("dvc", "queue", "start")
    project.ran("dvc", "queue", "logs", "-f", "queued-a")
    project.ran("dvc", "queue", "logs", "-f", "queued-b")
    tree = project.tree()
    names = [run.info.run_name.partition(" · ")[0] for run in tree.parents]
    assert names == [
        tree.parents[0].data.tags["webdistill.key"][:6],
        "longer",
        "queued-a",
        "queued-b",
    ]
    assert set(tree.below[0]) == ALL
    maker = tree.below[0]["search"].info.run_id
    for below in tree.below[1:]:
        assert set(below) == {"distill", "evaluate", "report"} | cached("search", "filter")
        assert below["search (cached)"].data.tags[links.MAKER_TAG] == maker
    assert not list((project.root / ".dvc").rglob("mlflow.db"))
    project.ran("dvc", "exp", "run", "-n", "once-more", "-S", "distill.epochs=4")
    project.track()
    assert project.tree().ids == tree.ids


@pytest.mark.slow
def test_a_colleague_with_the_same_server_and_one_with_another_store(
    project: Project, server: str, blank: Path, tmp_path: Path
) -> None:
    shared = {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": "team"}
    mine = replace(project, environment=shared)
    mine.run("dvc", "remote", "add", "-d", "here", str(tmp_path / "remote"))
    mine.run("dvc", "push", "-q")
    mine.commit()
    before = mine.tree()
    assert [set(each) for each in before.below] == [ALL]

    mine.run("git", "clone", "-q", str(mine.root), str(tmp_path / "clone"))
    theirs = replace(mine, root=tmp_path / "clone")
    said = theirs.run(sys.executable, "-m", "webdistill", "track").stdout
    assert (
        "stands in MLflow with 5 stages" in said
    )  # nothing is pulled yet: dvc.lock and metrics.json are in git
    theirs.run("dvc", "pull", "-q")
    theirs.ran("dvc", "repro")
    assert theirs.tree().ids == before.ids
    theirs.set("min_score: 0.02", "min_score: -0.02")
    theirs.ran("dvc", "repro")
    after = theirs.tree()
    assert set(after.below[1]) == ALL - {"search"} | cached("search")
    maker = after.below[1]["search (cached)"].data.tags[links.MAKER_TAG]
    assert maker == before.below[0]["search"].info.run_id
    assert after.parents[1].data.metrics["search.rows"] == 100

    shutil.copy(blank, theirs.root / "mlflow.db")
    alone = replace(theirs, environment={})
    alone.track()
    alone.track()
    tree = alone.tree()
    (parent,), (below,) = tree.parents, tree.below
    assert set(below) == cached(*ALL)
    assert {run.data.tags[links.MAKER_TAG] for run in below.values()} == {links.UNKNOWN}
    assert "not in this tracking store" in below["filter (cached)"].data.tags[NOTE_TAG]
    assert parent.data.metrics["filter.kept"] == 60
    assert parent.data.metrics["evaluate.top1"] == pytest.approx(1 - 1 / 2 / 60)
    assert parent.info.status == "FINISHED"


@pytest.mark.slow
def test_a_stage_that_failed_and_was_mended(project: Project) -> None:
    """Here records arrive by the processes that the stages start."""
    project.set("  epochs: 2\n", "  epochs: 3\n")
    (project.root / "broken").touch()
    assert project.run("dvc", "repro", "distill", check=False).returncode != 0
    tree = project.tree()
    assert set(tree.below[1]) == {"distill"} | cached("search", "filter")
    assert tree.below[1]["distill"].info.status == tree.parents[1].info.status == "FAILED"
    assert not [key for key in tree.parents[1].data.metrics if "distill" in key]
    project.run("dvc", "repro", "-f", "-s", "filter")
    parent = project.tree(repeated=True).parents[1]
    assert parent.info.status == "FAILED"  # of distill, that was the last attempt
    (project.root / "broken").unlink()
    project.run("dvc", "repro", "distill")
    after = project.tree(repeated=True)
    assert after.parents[1].info.status == "FINISHED"
    assert set(after.below[1]) == {"filter", "distill"} | cached("search", "filter")
    assert len(after.ids) == len(tree.ids) + 2
    assert "`distill.epochs` 2 → 3" in after.parents[1].data.tags[NOTE_TAG]
