"""What records become in MLflow: parents, children, curves; once, however often they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.records import CURVE, KEY, record
from tests.harness.test_tracking import environment, folder, local, run_flush, runs
from webdistill.harness import spool
from webdistill.harness.records import ComparisonCell, ComparisonTable
from webdistill.tracking import store

# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
__all__ = ["environment", "folder", "local"]  # fixtures


def test_sqlite_parent_children_and_repeats(tmp_path: Path, local: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("hello")
    spool.write(record("search", curves={}, metrics={"rows": 7}), local)
    path = spool.write(record(artifacts=[card]), local)
    kept = path.read_text()
    assert run_flush(local) == 0
    assert not list(local.glob("*.json")) + list(local.glob("*.files"))
    for _ in range(2):  # the second time round after the same record came again
        client, (parent,), children = runs(local)
        assert parent.info.run_name == "3fa2c1 · kd wrn-16-1"
        assert parent.data.params == record().parent_params
        assert parent.data.metrics["search.rows"] == 7
        points = client.get_metric_history(parent.info.run_id, "distill.loss")
        assert len(points) == 1500
        times = [point.timestamp for point in sorted(points, key=lambda point: point.step)]
        assert times == sorted(times)  # some of MLflow's charts have time as their axis
        assert (times[749], times[-1]) == (1_700_000_006_500, 1_700_000_012_750)
        assert {child.info.run_name for child in children} == {"search", "distill"}
        assert {child.data.tags[store.PARENT_TAG] for child in children} == {parent.info.run_id}
        (child,) = (child for child in children if child.info.run_name == "distill")
        assert (child.info.start_time, child.info.end_time) == (
            1_700_000_000_250,
            1_700_000_012_750,
        )
        assert child.data.metrics == {
            "loss-_end": 0.5,
            "system/seconds": 12.5,
            "loss": CURVE[-1][1],
        }
        assert "loss-_end 0.5" in child.data.tags[store.NOTE_TAG]
        assert child.data.params == {"task.seed": "0", "distill.method": "kd"}
        data = {each.dataset.name: each for each in child.inputs.dataset_inputs}
        assert data["data/quickstart/web.parquet"].dataset.digest == "a" * 36
        assert data["data/distill/student/"].tags[0].value == "output"
        assert child.data.tags["output data/distill/student"] == "b" * 64
        (artifact,) = client.list_artifacts(child.info.run_id)
        assert (
            Path(client.download_artifacts(child.info.run_id, artifact.path)).read_text() == "hello"
        )
        path.write_text(kept)
        assert run_flush(local) == 0


def test_parameters_beyond_every_limit_of_mlflow(local: Path) -> None:
    many = {f"section.key_{number}": str(number) for number in range(250)}
    odd = {
        "task.classes": "x" * 9000,
        "a>b": "",
        "search.keywords.crème brûlée": "1",
        "k" * 300: "2",
    }
    path = spool.write(record(parent_params={**many, **odd}, params=many), local)
    kept = path.read_text()
    for _ in range(2):
        assert run_flush(local) == 0
        assert not list(local.glob("*.rejected"))
        _, (parent,), (child,) = runs(local)
        assert len(parent.data.params) == 254
        assert len(child.data.params) == 250
        assert parent.data.params["task.classes"] == "x" * 6000
        assert parent.data.params["search.keywords.cr_me br_l_e"] == "1"
        assert parent.data.params["a_b"] == ""
        path.write_text(kept)


def test_a_comparison_told_twice_is_one_tree_brought_up_to_date(
    tmp_path: Path, local: Path
) -> None:
    page = tmp_path / "comparison.md"

    def tell(top1: float, text: str) -> None:
        page.write_text(text)
        shared: dict[str, Any] = {"name": "compare", "parent_key": KEY, "started": 1_700_000_000.0}
        common = record().parent_params
        table = ComparisonTable(
            **shared,
            ended=1_700_000_012.75,
            parent_params=common,
            metrics={"kd.top1": top1},
            artifacts=[page],
        )
        spool.write(table, local)
        for seed in (0, 1):
            cell = ComparisonCell(
                **shared,
                ended=1_700_000_000 + 100 * top1,
                cell=f"kd-{seed}",
                key=f"{KEY}{seed}",
                params={"arm": "kd", "seed": seed},
                metrics={"evaluate.top1": top1},
            )
            spool.write(cell, local)
        assert run_flush(local) == 0

    tell(0.5, "first")
    tell(0.75, "second")
    client, (parent,), children = runs(local)
    assert parent.info.run_name == "compare"
    assert parent.data.params == record().parent_params
    assert parent.data.metrics == {"kd.top1": 0.75}
    assert parent.info.end_time == 1_700_000_012_750
    (artifact,) = client.list_artifacts(parent.info.run_id)
    assert (
        Path(client.download_artifacts(parent.info.run_id, artifact.path)).read_text() == "second"
    )
    assert {child.info.run_name for child in children} == {"kd-0", "kd-1"}
    for child in children:
        assert child.data.tags[store.PARENT_TAG] == parent.info.run_id
        assert child.data.metrics["evaluate.top1"] == 0.75
        assert child.data.params["arm"] == "kd"
        assert child.info.status == "FINISHED"


def test_an_impossible_record_is_put_aside_and_the_rest_goes_on(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = spool.write(record(), local)
    broken.write_text("{")
    wrong = spool.write(record(metrics={"top1": "high"}), local)
    spool.write(record("report", status="FAILED", metrics={"nan": float("nan")}), local)
    assert run_flush(local) == 0
    assert {each.name for each in local.glob("*.rejected")} == {
        f"{path.name}.rejected" for path in (broken, wrong)
    }
    _, (parent,), (child,) = runs(local)
    assert (child.info.run_name, child.info.status, parent.info.status) == (
        "report", "FAILED", "FAILED",
    )  # fmt: skip
