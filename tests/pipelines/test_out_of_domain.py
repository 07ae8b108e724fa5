"""pipelines/out_of_domain: its cells and its table."""

from __future__ import annotations

import csv
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.out_of_domain import table
from pipelines.shared import cell
from tests.pipelines.domains import (
    PIPELINE,
    ROOT,
)
from webdistill.core.errors import UserError
from webdistill.core.files import write_json


# -- cells and table ---------------------------------------------------------------------------------------------
def overrides(command: list[str]) -> dict[str, str]:
    pairs = [v for flag, v in itertools.pairwise(command) if flag == "--set"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_a_cell_of_a_setting_reads_that_settings_files() -> None:
    first, *_, last = cell.commands(PIPELINE, "kd", 2, "sketch")
    folder = str(PIPELINE / "cells" / "sketch-kd-2")
    assert first[4:7] == [folder, "--from", "pipelines/out_of_domain/pool/sketch"]
    values = overrides(last)
    assert values["task.teacher"] == '"pipelines/out_of_domain/work/sketch/teacher"'
    assert values["task.test_labels"] == (
        '"pipelines/out_of_domain/work/sketch/test/labels.parquet"'
    )
    assert "{setting}" not in " ".join(last)
    pool = cell.pool_commands(PIPELINE, "photo")[0]
    assert pool[4] == str(PIPELINE / "pool" / "photo")
    assert overrides(pool)["search.local"] == '"pipelines/out_of_domain/work/photo/list.parquet"'
    assert overrides(cell.pool_commands(PIPELINE, "photo")[2])["embed.templates"] == (
        '["a photo of a {}.", "a blurry photo of a {}."]'
    )


def test_no_cell_reads_the_images_that_are_kept_for_choices() -> None:
    text = (PIPELINE / "dvc.yaml").read_text().split("\n  cell:")[1]
    assert "/val" not in text
    assert "/val" not in str(cell.commands(PIPELINE, "augkd", 0, "photo"))


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UserError, match="has settings; name one, as --setting photo or art_paint"):
        cell.commands(PIPELINE, "kd", 0)
    with pytest.raises(UserError, match="no setting 'film'; params.yaml has photo, art_painting"):
        cell.pool_commands(PIPELINE, "film")
    with pytest.raises(UserError, match="no setting 'photo'; params.yaml has none"):
        cell.commands(ROOT / "pipelines" / "compare", "kd", 0, "photo")


def finished(
    pipeline: Path, name: str, top1: float, steps: int = 400, teacher_top1: float = 0.4
) -> None:
    folder = pipeline / "cells" / name
    for stage in ("select", "distill", "evaluate"):
        (folder / stage).mkdir(parents=True)
        write_json({}, folder / stage / "metrics.json")
    figures = {"top1": top1, "top3": top1 + 0.1, "agreement": 0.5, "teacher_top1": teacher_top1}
    write_json(figures, folder / "evaluate" / "metrics.json")
    write_json({"steps": steps, "images": 100}, folder / "distill" / "metrics.json")


NAMED: dict[str, Any] = {
    "settings": ["photo", "sketch"],
    "arms": {"augkd": {}, "kd": {"distill.method": "kd"}, "fresh": {}},
    "seeds": [0, 1],
    "stages": ["select", "distill", "evaluate"],
    "data": "pool/{setting}",
    "common": {"task": {"teacher": "work/{setting}/teacher"}, "distill": {"method": "augkd"}},
    "baseline": "kd",
    "unequal": [],
}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Means of both domains: augkd 70 and 74 %, kd 60 and 62 %; of `fresh` one domain alone."""
    figures = {
        "photo-augkd-0": 0.80, "sketch-augkd-0": 0.60, "photo-augkd-1": 0.82, "sketch-augkd-1": 0.66,
        "photo-kd-0": 0.70, "sketch-kd-0": 0.50, "photo-kd-1": 0.72, "sketch-kd-1": 0.52,
        "photo-fresh-0": 0.90,
    }  # fmt: skip
    for name, top1 in figures.items():
        finished(tmp_path, name, top1, teacher_top1=0.4 if name.startswith("photo") else 0.2)
    return tmp_path


def test_the_mean_over_domains_is_taken_seed_by_seed(done: Path) -> None:
    results = table.read(done, NAMED)
    text = table.text(results, "kd")
    lines = text.splitlines()
    assert lines[0] == "| top-1, % | photo | sketch | mean | top-3, mean | top-5, mean |"
    half = 100 * math.sqrt(0.02**2 / 2)  # sample standard deviation of two values 2 points apart
    assert lines[2] == (
        f"| augkd | 81.00 ± {half:.2f} | 63.00 ± {3 * half:.2f} | 72.00 ± {2 * half:.2f} | "
        f"82.00 ± {2 * half:.2f} |  |"
    )
    assert lines[4] == "| fresh | 90.00 |  |  |  |  |"
    assert lines[5] == "| the teacher | 40.00 | 20.00 | 30.00 |  |  |"
    assert "| augkd | 2 | 200 | 400 | 72.00 ± 2.83 | 50.00 ± 0.00 | +11.00 [" in text
    assert "| kd | 2 | 200 | 400 | 61.00 ± 1.41 | 50.00 ± 0.00 |  |" in text
    assert "**Other data sets and\nnetworks**" in text
    assert text.endswith("\nnot yet run: photo-fresh-1, sketch-fresh-0, sketch-fresh-1\n")


def test_without_a_complete_seed_there_is_no_mean_and_no_picture(tmp_path: Path) -> None:
    finished(tmp_path, "photo-kd-0", 0.5)
    results = table.read(tmp_path, NAMED)
    assert not results.means
    assert "| kd | 50.00 |  |  |  |  |" in table.text(results, "kd")
    assert "sketch-kd-1" in results.missing
    assert [path.name for path in table.write(results, "kd", tmp_path)] == [
        "cells.csv",
        "results.md",
    ]


def test_cells_that_cannot_be_compared_are_refused(done: Path) -> None:
    finished(done, "sketch-fresh-0", 0.5, teacher_top1=0.3)
    with pytest.raises(UserError, match="differ in teacher or test set .*: sketch-fresh-0"):
        table.read(done, NAMED)
    shutil.rmtree(done / "cells")
    finished(done, "photo-kd-0", 0.5)
    finished(done, "sketch-kd-0", 0.5, steps=300)
    with pytest.raises(UserError, match="not trained for equally many optimiser steps"):
        table.read(done, NAMED)
    assert table.read(done, {**NAMED, "unequal": ["kd"]}).cells[-1].steps == 300
    finished(done, "sketch-augkd-0", 0.5, steps=300)
    finished(done, "photo-augkd-0", 0.5)
    with pytest.raises(UserError, match="not trained for equally many optimiser steps"):
        table.read(done, {**NAMED, "unequal": ["kd"]})
    shutil.rmtree(done / "cells")
    with pytest.raises(UserError, match="no finished cell in"):
        table.read(done, NAMED)


def test_files_are_the_same_each_time(done: Path) -> None:
    results = table.read(done, NAMED)
    paths = table.write(results, "kd", done)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in table.write(results, "kd", done)] == before
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["setting"], r["arm"], r["seed"]) for r in rows[:2]] == [
        ("photo", "augkd", "0"),
        ("photo", "augkd", "1"),
    ]
    assert rows[0]["top3"] == str(0.80 + 0.1)
    with Image.open(paths[2]) as image:
        assert image.width > 500


def test_the_comparison_is_tracked_with_every_cell(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled: list[Any] = []
    monkeypatch.setattr(table, "submit_all", lambda records, folder: spooled.extend(records))
    results = table.read(done, NAMED)
    table.submit(done, NAMED, results, [])
    whole, *cells = spooled
    assert whole.metrics["augkd.top1"] == pytest.approx(0.72)
    assert whole.metrics["photo-kd.top1"] == pytest.approx(0.71)
    assert len(cells) == 9
    own = next(each for each in cells if each.cell == "sketch-kd-1")
    assert own.params["task.teacher"] == "work/sketch/teacher"
    assert own.params["distill.method"] == "kd"
    assert own.params["seed"] == 1
