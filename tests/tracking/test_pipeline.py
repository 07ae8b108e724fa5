"""Which runs a real DVC project leaves in MLflow: stages that ran, links for those that did not, nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webdistill.core.dvc_hash import dvc_hash
from webdistill.lineage import links
from webdistill.lineage.store import NOTE_TAG

if TYPE_CHECKING:
    from conftest import Project

ALL = {"search", "filter", "distill", "evaluate", "report"}
# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def cached(*stages: str) -> set[str]:
    return {f"{stage} (cached)" for stage in stages}


def test_a_changed_parameter_makes_one_experiment_with_all_columns(project: Project) -> None:
    project.repro()
    project.set("  epochs: 2\n", "  epochs: 3\n")
    project.repro()
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

    project.set("  epochs: 3\n", "  epochs: 2\n")
    project.repro()  # everything from the run cache
    project.track()
    project.set("  epochs: 2\n", "  epochs: 3\n")
    project.repro()
    project.track()
    assert project.tree().ids == tree.ids

    _digests_are_those_of_dvc_lock(project, tree.parents[1].info.run_id)
    project.set("  epochs: 3\n", "  epochs: 4\n")
    refused = project.track(check=False)
    assert refused.returncode == 2
    assert "stage 'distill' is not up to date: params.yaml: distill;" in refused.stderr


def _digests_are_those_of_dvc_lock(project: Project, experiment: str) -> None:
    lock = links.read_lock((project.root / "dvc.lock").read_text())
    assert set(lock) == ALL
    for stage in lock.values():
        for path, digest in stage.outputs.items():
            assert dvc_hash(project.root / path, project.root) == digest
    tree = project.tree()
    (below,) = (
        b for p, b in zip(tree.parents, tree.below, strict=True) if p.info.run_id == experiment
    )
    datasets = {d.dataset.name: d.dataset.digest for d in below["evaluate"].inputs.dataset_inputs}
    assert datasets["data/distill/student"] == lock["distill"].outputs["data/distill/student"]
    assert datasets["data/distill/student"].endswith(".dir")
    assert (
        datasets["data/evaluate/metrics.json"]
        == lock["evaluate"].outputs["data/evaluate/metrics.json"]
    )


def test_experiments_of_dvc_here_queued_and_from_the_run_cache(project: Project) -> None:
    project.run("dvc", "exp", "run", "-n", "short")
    project.run("dvc", "exp", "run", "-n", "longer", "-S", "distill.epochs=3")
    for name, epochs in (("queued-a", 4), ("queued-b", 5)):
        project.run("dvc", "exp", "run", "--queue", "-n", name, "-S", f"distill.epochs={epochs}")
    project.run("dvc", "queue", "start")
    project.run("dvc", "queue", "logs", "-f", "queued-a")
    project.run("dvc", "queue", "logs", "-f", "queued-b")
    tree = project.tree()
    names = [run.info.run_name.partition(" · ")[0] for run in tree.parents]
    assert names[:2] == ["short", "longer"]
    assert sorted(names[2:]) == ["queued-a", "queued-b"]
    assert set(tree.below[0]) == ALL
    for below in tree.below[1:]:
        assert set(below) == {"distill", "evaluate", "report"} | cached("search", "filter")
        assert (
            below["search (cached)"].data.tags[links.MAKER_TAG]
            == tree.below[0]["search"].info.run_id
        )
    assert not list((project.root / ".dvc").rglob("mlflow.db"))
    project.run("dvc", "exp", "run", "-n", "once-more", "-S", "distill.epochs=3")
    project.track()
    assert project.tree().ids == tree.ids


def test_a_colleague_with_the_same_server_and_one_with_another_store(
    project: Project, server: str, blank: Path, tmp_path: Path
) -> None:
    shared = {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": "team"}
    mine = replace(project, environment=shared)
    mine.repro()
    mine.run("dvc", "remote", "add", "-d", "here", str(tmp_path / "remote"))
    mine.run("dvc", "push", "-q")
    mine.commit()
    before = mine.tree()
    assert [set(each) for each in before.below] == [ALL]

    mine.run("git", "clone", "-q", str(mine.root), str(tmp_path / "clone"))
    theirs = replace(mine, root=tmp_path / "clone")
    theirs.track()  # nothing is pulled yet: dvc.lock and metrics.json are in git
    theirs.run("dvc", "pull", "-q")
    theirs.repro()
    theirs.track()
    assert theirs.tree().ids == before.ids
    theirs.set("min_score: 0.02", "min_score: -0.02")
    theirs.repro()
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


def test_a_stage_that_failed_and_was_mended(project: Project) -> None:
    (project.root / "broken").touch()
    failed = project.run("dvc", "repro", check=False)
    assert failed.returncode != 0
    tree = project.tree()
    assert set(tree.below[0]) == {"search", "filter", "distill"}
    assert tree.below[0]["distill"].info.status == tree.parents[0].info.status == "FAILED"
    assert not [key for key in tree.parents[0].data.metrics if "distill" in key]
    project.repro("-f", "filter")
    (parent,) = project.tree(repeated=True).parents
    assert parent.info.status == "FAILED"  # of distill, that was the last attempt
    (project.root / "broken").unlink()
    project.repro()
    tree = project.tree(repeated=True)
    assert tree.parents[0].info.status == "FINISHED"
    assert set(tree.below[0]) == ALL
    assert len(tree.ids) == 1 + len(ALL) + 2
