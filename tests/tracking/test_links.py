"""Which run a link names: by all that was read, whatever the order in which records arrive."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from webdistill.harness import spool
from webdistill.harness.records import StageRun
from webdistill.tracking import flush, links, replay, store, view

# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
EMPTY = "e" * 32  # of a file that many runs make alike


class Telling:
    """Records go to a store of their own, one after the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, 1_700_000_000.0
        self.spool = root / ".work" / "spool"

    def record(self, stage: str, key: str, **changes: Any) -> StageRun:
        self.clock += 100
        values: dict[str, Any] = {
            "parent_params": {"distill.method": "kd", "key": key},
            "params": {},
            "started": self.clock - 50,
            "ended": self.clock,
            "status": "FINISHED",
        }
        return StageRun(stage=stage, parent_key=key * 32, **{**values, **changes})

    def tell(self, *records: StageRun) -> None:
        for each in records:
            spool.write(each, self.spool)
            assert flush.main(["--folder", str(self.spool), "--wait", "300"]) == 0
            assert not list(self.spool.glob("*.rejected"))

    def experiment(self, key: str) -> tuple[Any, dict[str, Any]]:
        """-> the parent and its children by name"""
        where = store.connect(self.root)
        (parent,) = store.find(where, {replay.KEY_TAG: key * 32})
        below = store.find(where, {store.PARENT_TAG: parent.info.run_id})
        named = {run.info.run_name: run for run in below}
        assert len(named) == len(below)
        return parent, named


@pytest.fixture
def telling(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Telling:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WEBDISTILL_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    shutil.copy(blank, tmp_path / "mlflow.db")
    return Telling(tmp_path)


def kept(digest: str) -> dict[str, str]:
    return {"data/filter/kept.parquet": digest * 32, "data/filter/dropped.parquet": EMPTY}


def test_the_maker_made_all_that_was_read(telling: Telling) -> None:
    telling.tell(
        telling.record("filter", "a", outputs=kept("1"), metrics={"kept": 1}),
        telling.record("filter", "b", outputs=kept("2"), metrics={"kept": 2}),
        telling.record("filter", "c", outputs=kept("2"), metrics={"kept": 2}),
        telling.record("filter", "d", outputs=kept("2"), status="FAILED"),
        telling.record("select", "x", inputs=kept("2")),
    )
    _, first = telling.experiment("b")
    parent, below = telling.experiment("x")
    assert set(below) == {"select", "filter (cached)"}
    assert below["filter (cached)"].data.tags[links.MAKER_TAG] == first["filter"].info.run_id
    assert below["filter (cached)"].data.tags["output data/filter/kept.parquet"] == "2" * 32
    assert (telling.spool / spool.PAGE).read_text().startswith("#/experiments/1/runs")
    where = store.connect(telling.root)
    assert where.client.get_experiment(where.experiment).tags[view.TAG] == view.STATE
    assert parent.data.metrics["filter.kept"] == 2


def test_cells_are_linked_to_the_pool_and_what_stands_behind_it(telling: Telling) -> None:
    pool = "pipelines/compare/pool"
    cell = {"tags": {"cell": "pipelines/compare/cells/kd-0"}}
    ledger = {f"{pool}/fetch/pool": "1" * 32 + ".dir"}
    logits = {f"{pool}/score/teacher": "2" * 32 + ".dir"}
    made = {"tags": {"cell": pool}}
    telling.tell(
        telling.record("fetch", "a", outputs=ledger, metrics={"ok": 9}, **made),
        telling.record("score", "a", inputs=ledger, outputs=logits, metrics={"images": 9}, **made),
        telling.record(
            "select", "x", inputs={**logits, "pipelines/compare/work/teacher": "3" * 32}, **cell
        ),
    )
    parent, below = telling.experiment("x")
    assert set(below) == {"select", "score (cached)", "fetch (cached)"}
    assert parent.data.metrics == {"fetch.ok": 9, "score.images": 9}
    assert parent.data.tags["webdistill.kind"] == "cell"
    assert parent.data.tags["cell"] == "pipelines/compare/cells/kd-0"


def test_a_link_mends_itself_when_the_maker_arrives(telling: Telling) -> None:
    telling.tell(telling.record("distill", "x", inputs=kept("1")))
    parent, below = telling.experiment("x")
    assert below["filter (cached)"].data.tags[links.MAKER_TAG] == links.UNKNOWN
    assert "Its metrics are unknown" in below["filter (cached)"].data.tags[store.NOTE_TAG]
    assert "filter.kept" not in parent.data.metrics
    telling.tell(
        telling.record("filter", "a", outputs=kept("1"), metrics={"kept": 1}),
        telling.record("report", "x", inputs=kept("1")),
    )
    _, first = telling.experiment("a")
    parent, again = telling.experiment("x")
    assert set(again) == {"distill", "report", "filter (cached)"}
    link = again["filter (cached)"]
    assert link.info.run_id == below["filter (cached)"].info.run_id
    assert link.data.tags[links.MAKER_TAG] == first["filter"].info.run_id
    assert parent.data.metrics["filter.kept"] == link.data.metrics["kept"] == 1


def test_a_late_record_takes_the_place_of_its_link(telling: Telling) -> None:
    late = telling.record("filter", "x", outputs=kept("1"), metrics={"kept": 1})
    telling.tell(telling.record("distill", "x", inputs=kept("1")), late)
    parent, below = telling.experiment("x")
    assert set(below) == {"distill", "filter"}
    assert parent.data.metrics["filter.kept"] == 1


def test_the_experiment_shows_what_the_last_record_stood_upon(telling: Telling) -> None:
    """A takedown and its withdrawal: the same configuration, other data, then the first data from the cache."""
    curve = {"loss": [(1, 2.0), (2, 1.0)]}
    telling.tell(
        telling.record("filter", "a", outputs=kept("1"), metrics={"kept": 1}, curves=curve)
    )
    telling.tell(telling.record("filter", "b", outputs=kept("2"), metrics={"kept": 2}))
    for stage, digest in (("select", "1"), ("distill", "2"), ("evaluate", "1")):
        telling.tell(telling.record(stage, "x", inputs=kept(digest)))
        parent, below = telling.experiment("x")
        assert parent.data.metrics["filter.kept"] == int(digest)
        assert below["filter (cached)"].data.metrics["kept"] == int(digest)
    where = store.connect(telling.root)
    points = where.client.get_metric_history(parent.info.run_id, "filter.loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]


def test_figures_come_from_metrics_json_only_if_the_lock_vouches_for_it(telling: Telling) -> None:
    text = json.dumps({"kept": 7})
    lock = {
        "filter": [("data/filter/kept.parquet", "1" * 32), ("data/filter/metrics.json", md5(text))],
        "select": [
            ("data/select/selection.parquet", "2" * 32),
            ("data/select/metrics.json", "0" * 32),
        ],
    }
    lines = ["stages:"]
    for stage, outs in lock.items():
        entries = "".join(f"\n    - path: {path}\n      md5: {digest}" for path, digest in outs)
        lines.append(f"  {stage}:\n    outs:{entries}")
    inputs = {"data/filter/kept.parquet": "1" * 32, "data/select/selection.parquet": "2" * 32}
    known = {"lock": "\n".join(lines), "measured": {"filter": text, "select": text}}
    telling.tell(telling.record("distill", "x", inputs=inputs, **known))
    parent, below = telling.experiment("x")
    assert set(below) == {"distill", "filter (cached)", "select (cached)"}
    assert parent.data.metrics == {"filter.kept": 7}
    telling.tell(
        telling.record("distill", "y", inputs={"data/filter/kept.parquet": "9" * 32}, **known)
    )
    parent, _ = telling.experiment("y")
    assert not parent.data.metrics  # the lock is about another run of filter


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_only_outputs_of_stages_have_makers() -> None:
    assert links.made_by("data/filter/kept.parquet", cell=False) == "filter"
    assert links.made_by("data/quickstart/web.parquet", cell=False) is None
    assert links.made_by("lists/search/web.parquet", cell=False) is None
    assert links.made_by("pipelines/compare/pool/fetch/pool", cell=False) is None
    assert links.made_by("pipelines/compare/pool/fetch/pool", cell=True) == "fetch"
    assert links.made_by("pool/fetch", cell=True) is None


def test_a_lock_read_while_it_was_written_says_nothing(tmp_path: Path) -> None:
    assert links.read_lock("stages:\n  filter:\n    outs: [") == {}
    assert links.read_lock("") == {}
    (tmp_path / "data" / "filter" / "metrics.json").mkdir(
        parents=True
    )  # as good as gone: cannot be read
    assert spool.locked(tmp_path) == ("", {})
