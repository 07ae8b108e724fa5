"""A project of five stages that take no time, in git and DVC, and a tracking server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from tests import tracking_server
from tests.tracking.tiny import DVC, LIST, MAIN, MAINS
from webdistill.commands import track
from webdistill.tracking import flush, store

ROOT = Path(__file__).resolve().parents[2]

QUIET = {
    **tracking_server.QUIET,
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.example",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.example",
}  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A clone, and what its commands find in the environment."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        clean = {key: value for key, value in os.environ.items() if key not in OURS}
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**clean, **QUIET, "PATH": programs, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def spool(self) -> Path:
        return self.root / ".work" / "spool"

    @contextmanager
    def variables(self) -> Iterator[None]:
        """This process has the environment of the project's commands."""
        with pytest.MonkeyPatch.context() as patch:
            for name in OURS:
                patch.delenv(name, raising=False)
            for name, value in {**QUIET, **self.environment}.items():
                patch.setenv(name, value)
            yield

    def ran(self, *command: str, arrive: bool = True) -> None:
        """A command that runs stages. Its records are carried from here: this process has imported MLflow already."""
        self.spool.mkdir(parents=True, exist_ok=True)
        with flush.locked(
            self.spool, 60
        ) as free:  # what stages start in the background finds nothing to do
            assert free
            self.run(*command)
            if arrive:
                with self.variables():
                    assert flush.flush(self.spool) == 0

    def set(self, old: str, new: str) -> None:
        path = self.root / "params.yaml"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def track(self) -> None:
        with self.variables():
            said, code = track.track(self.root)
        assert code == 0, said

    def tree(self, *, repeated: bool = False) -> Tree:
        """What stands in the store once everything has arrived."""
        with self.variables():
            assert flush.main(["--folder", str(self.spool), "--wait", "300"]) == 0
            assert not list(self.spool.glob("*.rejected"))
            return Tree(store.connect(self.root), repeated)


OURS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WEBDISTILL_TRACKING")


class Tree:
    """Every run of the store: parents from old to new, and their children by name."""

    def __init__(self, place: store.Store, repeated: bool) -> None:
        self.store = place
        runs = sorted(
            place.client.search_runs([place.experiment], max_results=1000),
            key=lambda run: run.info.start_time,
        )
        self.parents = [run for run in runs if store.PARENT_TAG not in run.data.tags]
        self.ids = sorted(run.info.run_id for run in runs)
        self.names = {run.info.run_id: run.info.run_name for run in runs}
        below: dict[str, list[Any]] = {run.info.run_id: [] for run in self.parents}
        for run in runs:
            if run not in self.parents:
                below[run.data.tags[store.PARENT_TAG]].append(run)  # KeyError: an orphan
        self.below = [
            {run.info.run_name: run for run in below[parent.info.run_id]} for parent in self.parents
        ]
        names = len(self.parents) + sum(map(len, self.below))
        assert repeated or len(runs) == names, "a name comes twice below one parent"
        assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project before its first run, committed."""
    made = Project(tmp_path_factory.mktemp("bare"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "stages", made.root / "stages", ignore=ignored)
    for name, body in MAINS.items():
        text = MAIN.format(body=indent(dedent(body), " " * 4), name=name)
        (made.root / "stages" / name / "__main__.py").write_text(text)
    shutil.copy(ROOT / "params.yaml", made.root)
    shutil.copy(ROOT / ".dvcignore", made.root)
    made.set("  epochs: 54\n", "  epochs: 2\n")
    made.set("\n  lr: null ", "\n  lr: 0.1 ")
    (made.root / "dvc.yaml").write_text(DVC)
    (made.root / ".gitignore").write_text("__pycache__/\n/.work/\n/mlflow.db\n/mlruns/\n")
    (made.root / "data" / "quickstart").mkdir(parents=True)
    (made.root / LIST).write_text(
        "\n".join(["url", *(f"https://a.example/{n}" for n in range(100))])
    )
    made.set("local: data/quickstart/web.parquet", f"local: {LIST}")
    made.run("git", "init", "-q")
    made.run("dvc", "init", "-q")
    made.run("dvc", "config", "core.analytics", "false")
    made.run("dvc", "config", "core.autostage", "true")
    made.commit()
    return made


@pytest.fixture(scope="session")
def finished(bare: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after `dvc repro`, everything committed, its records still in the spool."""
    bare.ran("dvc", "repro", arrive=False)
    bare.commit()
    root = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(bare.root, root)
    shutil.rmtree(bare.spool)
    return root


@pytest.fixture
def project(finished: Path, blank: Path, tmp_path: Path) -> Project:
    """A copy of the finished project, with a store of its own."""
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    shutil.copy(blank, root / "mlflow.db")
    return Project(root)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[str]:
    """Address of a real tracking server with artifacts and model registry."""
    with tracking_server.starting(tmp_path_factory.mktemp("server"), blank) as answering:
        yield answering()
