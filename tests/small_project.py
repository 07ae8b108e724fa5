"""A small project in an empty folder: the real code, params and quickstart data, cut to a few candidates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "data" / "quickstart"
OVERRIDES = [
    "task.threads=1", "distill.student=resnet8", "distill.epochs=1", "distill.views=1", "distill.batch_size=16",
    "select.budget=20", "prototypes.count=4", "prototypes.dims=8", "filter.min_score=-1.0",
    "filter.min_margin=-2.0", "report.pictures=2", "report.nearest=2",
]  # fmt: skip
IDENTITY = "[user]\n\tname = A Colleague\n\temail = colleague@example.org\n[init]\n\tdefaultBranch = main\n"


@dataclass(frozen=True)
class Project:
    """A folder with everything `dvc repro` needs, below a home with a git identity."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)  # environment

    @property
    def environment(self) -> dict[str, str]:
        """This interpreter's programs come first on the PATH; nothing of the user's settings is seen."""
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        (home / ".gitconfig").write_text(IDENTITY)
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "WEBDISTILL_TRACKING": "off",
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "COLUMNS": "100",
            **self.extra,
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def copy(self, root: Path) -> Project:
        """The same project, outputs, cache and history included, at another place."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root, self.extra)

    def forget(self) -> None:
        """Remove every output, the lock and DVC's cache: the next run starts from scratch."""
        for stage in (self.root / "data").iterdir():
            if stage.name != "quickstart":
                shutil.rmtree(stage)
        (self.root / "dvc.lock").unlink(missing_ok=True)
        for folder in (".dvc/cache", ".dvc/tmp", ".work"):
            shutil.rmtree(self.root / folder, ignore_errors=True)


def create(root: Path, candidates: int = 60) -> Project:
    """The project before its first run, one commit old."""
    ignore = shutil.ignore_patterns(
        "__pycache__", "work", "cells", "dvc.yaml", "dvc.lock", ".code", ".dvc"
    )
    for folder in ("stages", "webdistill", "pipelines", "experiments"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for folder in ("clip", "teacher"):
        shutil.copytree(QUICKSTART / folder, root / "data/quickstart" / folder)
    for name in ("dvc.yaml", "params.yaml", "takedown.txt", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, root / name)
    for name in ("web.parquet", "truth.parquet"):
        _cut(QUICKSTART / name, root / "data/quickstart" / name, candidates)
    for name in ("images.parquet", "labels.parquet"):
        _cut(QUICKSTART / "test" / name, root / "data/quickstart/test" / name, 40)
    set_params(root, OVERRIDES)
    project = Project(root)
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "Start")
    return project


def _cut(source: Path, target: Path, rows: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.read_table(source).slice(0, rows), target)


def set_params(root: Path, overrides: list[str]) -> None:
    """Change `section.key=value` in a project's params.yaml."""
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load((root / "params.yaml").read_text())
    for text in overrides:
        key, _, value = text.partition("=")
        section, name = key.split(".")
        assert name in values[section], key
        values[section][name] = YAML(typ="safe").load(value)
    with (root / "params.yaml").open("w") as file:
        yaml.dump(values, file)
