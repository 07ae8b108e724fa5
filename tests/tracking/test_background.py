"""The flush that a stage starts: a process of its own in the spool's folder, with the stage's environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.student import CLASSES, NAME, encoded, evaluated, exported
from webdistill.harness import spool
from webdistill.tracking import store

with warnings.catch_warnings():  # MLflow 3.17 about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.pyfunc

# MLflow 3.17 beside SQLAlchemy 2.1 and pandas 3.1
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return exported(tmp_path_factory.mktemp("student"))[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a stage runs."""
    for name in list(os.environ):
        if name.startswith("MLFLOW_") or name == "WEBDISTILL_TRACKING":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    root = tmp_path / "a project"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def unset() -> Iterator[None]:
    yield
    mlflow.set_tracking_uri(None)


def finished(record: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Submit as a stage does, and wait for the flush. -> its log"""
    started: list[int] = []
    launch = spool.launch_flush
    with monkeypatch.context() as patch:
        patch.setattr(spool, "launch_flush", lambda folder: started.append(launch(folder)))
        spool.submit(record, root / ".work" / "spool")
    _, status = os.waitpid(started[0], 0)
    log = (root / ".work" / "spool" / "flush.log").read_text()
    assert status == 0, log
    return log


def stores(root: Path) -> set[str]:
    """Whatever MLflow has made below a folder."""
    found = [*root.rglob("*.db"), *root.rglob("mlruns"), *root.rglob("mlartifacts")]
    return {path.relative_to(root).as_posix() for path in found}


@pytest.mark.parametrize(
    "where",
    [
        "",
        *(
            pytest.param(uri, marks=pytest.mark.slow)
            for uri in ("sqlite:///{root}/other/runs.db", "sqlite:///../near.db", "server")
        ),
    ],
)
def test_completes_evaluate_and_registers_the_student_once(
    where: str,
    project: Path,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    unset: None,
) -> None:
    (project.parent / "other").mkdir()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"webdistill{where[:1]}")
    if where == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    elif where:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", where.format(root=project.parent))
    finished(evaluated(files), project, monkeypatch)
    assert stores(project.parent) == {
        "": {"a project/mlflow.db", "a project/mlruns"},
        "server": set(),
        "sqlite:///{root}/other/runs.db": {"other/runs.db", "other/mlruns"},
        "sqlite:///../near.db": {"near.db", "mlruns"},
    }[where]  # fmt: skip

    place = store.connect(project)
    runs = place.client.search_runs([place.experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.info.run_name for run in runs].count("evaluate") == 1
    name = NAME.replace("webdistill", f"webdistill{where[:1]}")
    (version,) = place.client.search_model_versions(f"name = '{name}'")
    assert version.run_id in {run.info.run_id for run in runs}
    assert [m.status for m in place.client.search_logged_models([place.experiment])] == ["READY"]
    mlflow.set_tracking_uri(place.client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@latest")
    assert loaded.predict({"image": [encoded("PNG", (20, 20), 0)]})["class"][0] in CLASSES
