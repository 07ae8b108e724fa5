"""A wheel that pip has installed: the program `webdistill` makes a project in an empty folder, and its stages run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from webdistill.harness.params import read_yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "pyproject.toml", "README.md", "LICENSE", "params.yaml", "dvc.yaml", "takedown.txt", ".dvcignore",
    "experiments/README.md", ".dvc/plots.html",
)  # fmt: skip
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed; all it needs comes from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source, place = folder / "source", folder / "installed"
    for name in SHIPPED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__", "work", "cells", ".code", ".dvc")
    for name in ("webdistill", "stages", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    build = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    ]
    offline = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*pip, "--prefix", str(place), str(wheel)], env=offline, check=True, cwd=folder)
    return place


def test_the_program_makes_a_project_whose_stages_run(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data/quickstart/teacher", tmp_path / "teacher")
    (tmp_path / "web").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "web" / "airplane.png")
    (packages,) = installed.glob("lib/python*/site-packages")
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
        "WEBDISTILL_TRACKING": "off",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    program = str(installed / "bin" / "webdistill")
    said = run(program, "init", "--yes", "--source", "web")
    assert "all tensors fit" in " ".join(said.split())
    assert {
        "params.yaml",
        "dvc.yaml",
        "takedown.txt",
        ".dvcignore",
        "stages",
        "webdistill",
        ".dvc",
    } <= {path.name for path in tmp_path.iterdir()}
    deps = read_yaml(tmp_path / "dvc.yaml")["stages"]["distill"]["deps"]
    assert "webdistill/models/families/wide.py" in deps  # teacher WRN-16-2, student WRN-16-1
    assert not [
        dep for dep in deps if dep.startswith("webdistill/") and not (tmp_path / dep).exists()
    ]
    assert "is valid" in run(program, "check")
    run(sys.executable, "-m", "dvc", "repro", "search")
    assert (tmp_path / "data/search/candidates.parquet").is_file()
