"""`cp -r project copy`: a database names folders in full, and runs of the copy must leave the original's alone."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.student import CLASSES, NAME, encoded, evaluated, exported
from webdistill.harness import spool
from webdistill.tracking import flush, links, store

with warnings.catch_warnings():  # MLflow 3.17 about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

# MLflow 3.17 beside SQLAlchemy 2.1 and pandas 3.1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range:DeprecationWarning"),
]
FILTERED = {"data/filter/kept.parquet": "1" * 32}


@pytest.fixture
def original(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which `filter` has run and left a file with its run."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WEBDISTILL_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "the original"
    root.mkdir()
    shutil.copy(blank, root / "mlflow.db")
    page = tmp_path / "page.html"
    page.write_text("page")
    values: dict[str, Any] = {"inputs": {}, "outputs": FILTERED, "artifacts": [page]}
    tell(root, evaluated([], stage="filter", **values))
    return root


def tell(root: Path, record: Any) -> None:
    spool.write(record, root / ".work" / "spool")
    assert flush.main(["--folder", str(root / ".work" / "spool"), "--wait", "300"]) == 0
    assert not list((root / ".work" / "spool").glob("*.rejected"))


def state(root: Path) -> dict[str, bytes]:
    """All files with their bytes, for a comparison."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def experiments(root: Path) -> dict[str, list[Any]]:
    """Name -> its runs, the oldest first."""
    client = store.connect(root).client
    return {
        each.name: client.search_runs([each.experiment_id], order_by=["attributes.start_time"])
        for each in client.search_experiments()
        if each.name != "Default"
    }


def test_runs_of_a_copy_stay_in_the_copy(
    original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "student").mkdir()
    _, files = exported(tmp_path / "student")
    tell(original, evaluated(files, parent_key="b" * 32))
    before = state(original)
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    capfd.readouterr()
    inputs = {**evaluated([]).inputs, **FILTERED}
    for key in "cd":  # the second time the experiment is found again
        tell(copy, evaluated(files, parent_key=key * 32, inputs=inputs))
        (line,) = [each for each in capfd.readouterr().err.splitlines() if "mlflow.db" in each]
        assert f"runs of {copy} are in experiment 'webdistill (2)'" in line
        assert f"{original.as_uri()}/mlruns" in line
    assert state(original) == before

    found = experiments(copy)
    assert set(found) == {"webdistill", "webdistill (2)"}
    assert len(found["webdistill"]) == len(experiments(original)["webdistill"])
    own = found["webdistill (2)"]
    assert [run.info.run_name for run in own].count("evaluate") == 2
    assert {run.info.status for run in own} == {"FINISHED"}
    assert {run.info.artifact_uri.startswith(f"{copy.as_uri()}/mlruns") for run in own} == {True}
    filtered = next(run for run in found["webdistill"] if run.info.run_name == "filter")
    cached = [run for run in own if run.info.run_name == "filter (cached)"]
    assert {run.data.tags[links.MAKER_TAG] for run in cached} == {filtered.info.run_id}
    experiment = store.connect(copy).client.get_experiment_by_name("webdistill (2)")
    assert experiment is not None
    assert "came from another place" in experiment.tags[store.NOTE_TAG]

    place = store.connect(copy)
    versions = place.client.search_model_versions(f"name = '{NAME}'")
    assert len(versions) == 2  # the original's, which came with the database, and the copy's own
    shutil.rmtree(original / "mlruns")
    mlflow.set_tracking_uri(place.client.tracking_uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@latest")
        assert loaded.predict({"image": [encoded("PNG", (20, 20), 0)]})["class"][0] in CLASSES
    finally:
        mlflow.set_tracking_uri(None)


def test_the_original_goes_on_and_a_copy_of_a_copy_is_told_from_both(
    original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [original, tmp_path / "copy", tmp_path / "copy of it"]
    for number, root in enumerate(folders):
        if number:
            shutil.copytree(folders[number - 1], root)
        tell(root, evaluated([], stage="filter", inputs={}, parent_key=f"{number}" * 32))
    names = ["webdistill", "webdistill (2)", "webdistill (3)"]
    assert [set(experiments(root)) for root in folders] == [set(names[:n]) for n in (1, 2, 3)]
    capfd.readouterr()
    tell(original, evaluated([], stage="filter", inputs={}, parent_key="e" * 32))
    assert "came from" not in capfd.readouterr().err
    assert {name: len(runs) for name, runs in experiments(original).items()} == {"webdistill": 6}


def test_a_place_that_a_person_chose_is_no_copy(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is named, and files on a server that everybody reaches."""
    place = store.connect(original)
    place.client.create_experiment("far", artifact_location="s3://bucket/runs")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "far")
    assert store.connect(original).notice == ""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{original}/mlflow.db")
    assert store.connect(tmp_path).notice == ""
    assert store.connect(tmp_path).experiment == place.experiment
