"""A small project in an empty folder: the real code, params and quickstart data, cut to 200 candidates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "data" / "quickstart"
OVERRIDES = [
    "distill.student=resnet8", "distill.epochs=2", "distill.views=1", "distill.batch_size=16",
    "select.budget=60", "prototypes.count=4", "prototypes.dims=8", "filter.min_score=-1.0",
    "filter.min_margin=-2.0",
]  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A folder with everything `dvc repro` needs."""

    root: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there with this interpreter's programs first on the PATH."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "WEBDISTILL_TRACKING": "off",
        }
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def forget(self) -> None:
        """Remove every output, the lock and DVC's cache: the next run starts from scratch."""
        for stage in (self.root / "data").iterdir():
            if stage.name != "quickstart":
                shutil.rmtree(stage)
        (self.root / "dvc.lock").unlink(missing_ok=True)
        for folder in (
            self.root / ".dvc" / "cache",
            self.root / ".dvc" / "tmp",
            self.root / ".work",
        ):
            shutil.rmtree(folder, ignore_errors=True)


def cut(source: Path, target: Path, rows: list[int]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.read_table(source).take(pa.array(rows)), target)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("project")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("stages", "webdistill", "pipelines"):
        shutil.copytree(
            ROOT / folder,
            root / folder,
            ignore=shutil.ignore_patterns("__pycache__", "work", "cells"),
        )
    for folder in ("clip", "teacher"):
        shutil.copytree(QUICKSTART / folder, root / "data/quickstart" / folder, ignore=ignore)
    shutil.copytree(ROOT / "experiments", root / "experiments", ignore=ignore)
    for name in ("dvc.yaml", "params.yaml", "takedown.txt", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    for name in ("web.parquet", "truth.parquet"):
        cut(QUICKSTART / name, root / "data/quickstart" / name, list(range(200)))
    for name in ("images.parquet", "labels.parquet"):
        cut(QUICKSTART / "test" / name, root / "data/quickstart/test" / name, list(range(100)))
    made = Project(root)
    made.run("dvc", "init", "--no-scm", "-q")
    made.run("dvc", "config", "core.analytics", "false")
    set_params(root, OVERRIDES)
    return made


def set_params(root: Path, overrides: list[str]) -> None:
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
