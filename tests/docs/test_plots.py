"""`dvc plots show` and `dvc plots diff` with `.dvc/plots.html`: a page that asks no server for anything."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "data/prototypes/clusters.csv": [
        {"prototype": i, "images": i + 3, "class_entropy": i / 9} for i in range(8)
    ],
    "data/distill/curve.csv": [
        {"epoch": i, "loss": 2 / (i + 1), "agreement": i / 9, "holdout_agreement": i / 10}
        for i in range(6)
    ],
    "data/distill/selection_history.csv": [
        {"epoch": i, "kept_share": 0.9, "churn": 0.1} for i in range(3)
    ],
    "data/evaluate/per_class.csv": [
        {"class": name, "accuracy": 0.5} for name in ("cat", "dog", "truck")
    ],
    "data/evaluate/confusion.csv": [
        {"actual": a, "predicted": p} for a in ("cat", "dog", "truck") for p in ("cat", "dog")
    ],
    "data/evaluate/calibration.csv": [
        {"confidence": i / 10, "accuracy": i / 11} for i in range(1, 11)
    ],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's plots over made-up tables; the loss has changed since the only commit."""
    root = tmp_path_factory.mktemp("plots")
    (root / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    yaml = YAML()
    plots = yaml.load((root / "dvc.yaml").read_text())["plots"]
    with (root / "dvc.yaml").open("w") as file:
        yaml.dump({"plots": plots}, file)
    write(root)
    run(root, "git", "init", "-q")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "Start")
    ROWS_LATER = {**ROWS, "data/distill/curve.csv": ROWS["data/distill/curve.csv"][:4]}
    write(root, ROWS_LATER)
    return root


def write(root: Path, tables: dict[str, list[dict[str, Any]]] = ROWS) -> None:
    for name, rows in tables.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def run(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page_of(root: Path, *words: str) -> Path:
    said = run(root, sys.executable, "-m", "dvc", "plots", *words)
    return Path(said.strip().splitlines()[-1].removeprefix("file://"))


def test_no_script_comes_from_a_server(project: Path) -> None:
    page = page_of(project, "show").read_text()
    assert page.count("vegaEmbed('#") == 8
    assert not re.findall(r"(?:src|href)\s*=", page)
    assert "'" not in "".join(re.findall(r'<div id = "(.*?)"', page))  # it stands in a script


@pytest.mark.slow
def test_every_plot_is_drawn_for_both_sides(project: Path) -> None:
    with chromium() as browser:
        page = browser.open(page_of(project, "diff", "HEAD"))
        page.wait_for("document.querySelectorAll('figure').length === 8")
        count = "[...document.querySelectorAll('figure')].map(f => f.querySelectorAll('%s').length)"
        assert page.evaluate(count % "svg") == [1, 1, 1, 1, 1, 1, 2, 1]
        lines, dots, boxes = (
            page.evaluate(count % each) for each in ("polyline", "circle", "rect")
        )
        assert lines == [2, 0, 2, 4, 4, 0, 0, 0]  # two sides; two curves in two of them
        assert dots == [0, 16, 0, 0, 0, 0, 0, 20]
        assert boxes == [0, 0, 0, 0, 0, 6, 18, 0]
        points = "[...document.querySelectorAll('figure')][2].querySelectorAll('polyline')"
        lengths = f"[...{points}].map(e => e.getAttribute('points').split(' ').length)"
        assert page.evaluate(lengths) == [4, 6]
