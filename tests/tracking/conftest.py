"""A project of five stages that take no time, in git and DVC, and a tracking server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from webdistill.lineage import store

ROOT = Path(__file__).resolve().parents[2]

LIST = "data/quickstart/list.csv"
MAINS = {
    "search": """
        _, *urls = stage.input(stage.params.local).read_text().split()
        write("candidates.parquet", " ".join(urls))
        stage.metrics({"rows": len(urls)})
    """,
    "filter": """
        images = stage.input("data/search/candidates.parquet").read_text().split()
        kept = images[: 40 if stage.params.min_score > 0 else 60]
        write("kept.parquet", " ".join(kept))
        write("dropped.parquet", "")
        stage.metrics({"images": len(images), "kept": len(kept)})
    """,
    "distill": """
        kept = stage.input("data/filter/kept.parquet").read_text().split()
        if Path("broken").exists():
            raise UserError("broken")
        with stage.output("student") as folder:
            (folder / "deep").mkdir(parents=True)
            (folder / "weights").write_text(f"{len(kept)} {stage.params.epochs}")
            (folder / "deep" / "card").write_text("card")
        for epoch in range(1, stage.params.epochs + 1):
            stage.curve("loss", 2 / (epoch + stage.params.lr), epoch)
        stage.metrics({"images": len(kept), "loss": 2 / stage.params.epochs})
    """,
    "evaluate": """
        kept, epochs = (stage.input("data/distill/student") / "weights").read_text().split()
        top1 = 1 - 1 / int(epochs) / int(kept)
        write("predictions.parquet", str(top1))
        stage.metrics({"top1": top1, "teacher_top1": 0.9, "parameters": 1000, "worst_class_top1": 0.9 * top1})
        stage.track_metrics({"latency_ms": 1.5})
    """,
    "report": """
        for name in ("filter/kept.parquet", "distill/student", "evaluate/predictions.parquet"):
            stage.input(f"data/{name}")
        write("report.html", str(stage.settings.flat()))
        stage.metrics({"bytes": 1})
    """,
}
MAIN = """
from pathlib import Path
from webdistill.core.errors import UserError
from webdistill.core.stage import Stage, run

def main(stage: Stage) -> None:
    def write(name, text):
        with stage.output(name) as path:
            path.write_text(text)
{body}
if __name__ == "__main__":
    run("{name}", main)
"""
DVC = """
stages:
  search:
    cmd: python -m stages.search
    deps: [stages/search, '${search.local}']
    params: [search]
    outs: [data/search/candidates.parquet]
    metrics: [data/search/metrics.json: {cache: false}]
  filter:
    cmd: python -m stages.filter
    deps: [stages/filter, data/search/candidates.parquet]
    params: [filter]
    outs: [data/filter/kept.parquet, data/filter/dropped.parquet]
    metrics: [data/filter/metrics.json: {cache: false}]
  distill:
    cmd: python -m stages.distill
    deps: [stages/distill, data/filter/kept.parquet]
    params: [distill]
    outs: [data/distill/student]
    metrics: [data/distill/metrics.json: {cache: false}]
  evaluate:
    cmd: python -m stages.evaluate
    deps: [stages/evaluate, data/distill/student]
    params: [evaluate]
    outs: [data/evaluate/predictions.parquet]
    metrics: [data/evaluate/metrics.json: {cache: false}]
  report:
    cmd: python -m stages.report
    deps: [stages/report, data/filter/kept.parquet, data/distill/student, data/evaluate/predictions.parquet]
    params: [task, search, filter, distill, evaluate, report]
    outs: [data/report/report.html]
    metrics: [data/report/metrics.json: {cache: false}]
"""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
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

    def repro(self, *flags: str) -> None:
        self.run("dvc", "repro", *flags)

    def set(self, old: str, new: str) -> None:
        path = self.root / "params.yaml"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def track(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "webdistill", "track", check=check)

    def tree(self, *, repeated: bool = False) -> Tree:
        """What stands in the store once everything has arrived."""
        flushed = self.run(sys.executable, "-m", "webdistill.lineage.flush", "--wait", "100")
        assert not list((self.root / ".work" / "spool").glob("*.rejected")), flushed.stderr
        with pytest.MonkeyPatch.context() as patch:
            for name in OURS:
                patch.delenv(name, raising=False)
            for name, value in {**QUIET, **self.environment}.items():
                patch.setenv(name, value)
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
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store as MLflow makes it at first use, which takes seconds."""
    root = tmp_path_factory.mktemp("blank")
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        store.connect(root)
    return root / "mlflow.db"


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project before its first run, committed; copied by `project`."""
    made = Project(tmp_path_factory.mktemp("bare"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "stages", made.root / "stages", ignore=ignored)
    for name, body in MAINS.items():
        text = MAIN.format(body=indent(dedent(body), " " * 4), name=name)
        (made.root / "stages" / name / "__main__.py").write_text(text)
    shutil.copy(ROOT / "params.yaml", made.root)
    shutil.copy(ROOT / ".dvcignore", made.root)
    made.set("  epochs: 60\n", "  epochs: 2\n")
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


@pytest.fixture
def project(bare: Project, blank: Path, tmp_path: Path) -> Project:
    """A fresh copy of the project, with a store of its own."""
    root = tmp_path / "project"
    shutil.copytree(bare.root, root)
    shutil.copy(blank, root / "mlflow.db")
    return Project(root)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Iterator[str]:
    """Address of a real tracking server with artifacts and model registry."""
    home, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copy(blank, home / "server.db")
    options = ["--backend-store-uri", f"sqlite:///{home}/server.db", "--port", str(port)]
    options += ["--artifacts-destination", str(home / "artifacts"), "--workers", "1"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            cwd=home,
            env={**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield _answering(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answering(address: str, process: subprocess.Popen[bytes]) -> str:
    limit = time.monotonic() + 90
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return address
        except OSError:
            time.sleep(0.2)
    pytest.fail("the tracking server did not start")
