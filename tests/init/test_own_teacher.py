"""docs/own_teacher.md: its script and its commands, exactly as they stand there, in what a fresh clone holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from webdistill.core.params import STAGES, read_yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_teacher.md").read_text()
FOLDERS = ("stages", "webdistill", "experiments", "data/quickstart/clip")
FILES = ("params.yaml", "dvc.yaml", "takedown.txt", ".dvcignore", ".gitignore")
UNWANTED = shutil.ignore_patterns("__pycache__")


def run(folder: Path, command: str) -> str:
    """A line of the page in a shell, with this interpreter as python and python3. -> what it printed"""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "WEBDISTILL_TRACKING": "off",
        "OMP_NUM_THREADS": "2",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=UNWANTED)
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    run(folder, "git init -q && dvc init -q && dvc config core.analytics false")
    return folder


def test_the_page(clone: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (clone / "standin.py").write_text(script)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    shown = {}
    for line in (line for block in blocks for line in block.splitlines()):
        shown[line.split(" --")[0]] = run(clone, line)
    init = shown["python -m webdistill init"]
    assert "24 labelled images" in init
    assert "0 fail" in init
    assert "the weights of a trained one?" not in init  # BatchNorm remembers something
    fit = json.loads((clone / ".work/fit.json").read_text())
    assert fit["images"] == 36
    assert fit["test_images"] == 0  # fewer than 30
    assert fit["signals"]["covered"]["value"] == 3
    assert set(read_yaml(clone / "dvc.lock")["stages"]) == set(STAGES)
    measured = json.loads((clone / "data/evaluate/metrics.json").read_text())
    assert measured["teacher_top1"] == 1.0  # it was fitted to these very images
    assert measured["top1"] > 0.9
    assert f"student  {measured['top1']:.1%}" in shown["python -m webdistill results"]
    assert "quickstart" not in (clone / "data/report/card.md").read_text()
    assert pq.read_table(clone / "data/select/selection.parquet").num_rows == 18


def test_in_an_empty_folder_dvc_runs_the_copied_code(tmp_path: Path) -> None:
    """Inits without a clone, then runs the two stages that need no torch, and nothing again after that."""
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "standin.py").write_text(script)
    environment = {"PYTHONPATH": str(ROOT)}  # in the place of an installation
    command = re.findall(r"python -m webdistill init .*", PAGE)[0].replace(" --force", "")
    run(tmp_path, f"PYTHONPATH={environment['PYTHONPATH']} python3 standin.py")
    run(tmp_path, f"PYTHONPATH={environment['PYTHONPATH']} {command}")
    assert "Running stage 'fetch'" in run(tmp_path, "unset PYTHONPATH; dvc repro fetch")
    assert "Running stage" not in run(tmp_path, "unset PYTHONPATH; dvc repro fetch")
    assert len(pq.read_table(tmp_path / "data/fetch/ledger.parquet")) == 36
    (tmp_path / "stages/search/__init__.py").write_text('"""Changed."""\n')
    assert "Running stage 'search'" in run(tmp_path, "unset PYTHONPATH; dvc repro fetch")
