"""The pool's page: the report's parts about the pool, without a student, and thresholds that nobody has set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.stages.report_project import CLASSES, FATES, HOSTILE, build_project
from tests.stages.report_stage import Reader
from webdistill.__main__ import main
from webdistill.core.files import write_table
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stages up to `select` leave, and nothing of a training."""
    monkeypatch.chdir(tmp_path)
    build_project(tmp_path)
    for name in ("prototypes", "distill", "evaluate"):
        shutil.rmtree(tmp_path / "data" / name)
    set_rules(tmp_path, min_score=-1.0, max_aspect=100.0)  # off
    return tmp_path


def set_rules(root: Path, **rules: float) -> None:
    raw = read_yaml(ROOT / "params.yaml")
    raw["task"] |= {"classes": list(CLASSES), "test_images": "tests.parquet", "teacher": "teacher"}
    raw["filter"] |= rules
    raw["report"] |= {"pictures": 8}
    (root / "params.yaml").write_text(json.dumps(raw))


def test_it_needs_no_training_and_shows_rules_that_are_off(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pool-page"]) == 0
    assert capsys.readouterr().out == "open .work/pool.html in a browser\n"
    text = (project / ".work/pool.html").read_text()
    for part in ("Where the images went", "How the pool fits the teacher", "Licences and hosts"):
        assert part in text
    for key in ("filter.min_score is -1, 0.0", "filter.max_aspect is 100, 0.0", "filter.min_side"):
        assert key in text
    reader = Reader(text)
    assert sum(name == "img" for name, _ in reader.tags) > 40
    assert HOSTILE not in text
    assert not [at for _, at in reader.tags if at.get("src", "data:").split(":")[0] != "data"]


def test_the_share_that_a_threshold_drops_is_that_of_the_pool(project: Path) -> None:
    low = sum(fate == "low_score" for fate in FATES)
    assert low
    set_rules(project, min_score=0.3)
    assert main(["pool-page", "--output", "page.html"]) == 0
    text = (project / "page.html").read_text()
    pool = 88 - sum(fate in ("opt_out", "takedown", "unsafe") for fate in FATES)
    assert f"filter.min_score is 0.3000, {100 * low / pool:.1f}\u00a0% lie below it" in text


def test_what_is_missing_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data/select/selection.parquet").unlink()
    assert main(["pool-page"]) == 2
    assert capsys.readouterr().err == (
        "error: data/select/selection.parquet does not exist; run `dvc repro select`\n"
    )


def test_a_page_of_before_a_takedown_proves_no_absence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows shrunk pictures, in which nobody finds an id (promise K4)."""
    assert main(["pool-page"]) == 0
    dropped = pq.read_table("data/filter/dropped.parquet")
    name = next(row["id"] for row in dropped.to_pylist() if row["reason"] == "takedown")
    says = "unproven .work/pool.html: made from another data/filter/dropped.parquet"
    main(["prove-absent", name])
    shown = " ".join(capsys.readouterr().out.split())
    assert "absent .work/pool.html" in shown
    others = dropped.filter(pc.not_equal(dropped["reason"], "leak"))
    write_table(others, project / "data/filter/dropped.parquet")
    assert main(["prove-absent", name]) == 1
    assert says in " ".join(capsys.readouterr().out.split())
