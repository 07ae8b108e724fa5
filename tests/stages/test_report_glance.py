"""The sentences on top of the report, and the comparison with kept experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.report.card import card
from stages.report.evidence import Evidence, Measured
from stages.report.gather import gather
from stages.report.page import page
from stages.report.sections import glance
from stages.report.sections.experiments import experiments
from tests.stages.report_project import HOSTILE, build_project
from tests.stages.report_stage import FLAT, Stage, rendered
from webdistill.core.errors import UserError
from webdistill.core.files import digest, read_json, write_json


@pytest.fixture
def project(tmp_path: Path) -> Path:
    build_project(tmp_path)
    return tmp_path


def evidence_of(root: Path, **changes: Any) -> Evidence:
    """The project's evidence with some of what was measured changed."""
    found = gather(Stage(root))
    measured: Measured = dataclasses.replace(found.measured, **changes)
    return dataclasses.replace(found, measured=measured)


def test_the_pool_in_one_sentence(project: Path) -> None:
    assert glance.pool_line(evidence_of(project)) == (
        "100 candidates, 88 in the pool, 54 kept by the filter, 40 selected for training. "
        "Largest losses: not selected (14) and CLIP score too low (12)."
    )


def test_the_training_in_one_sentence(project: Path) -> None:
    line = glance.training_line(evidence_of(project))
    assert line == (
        "Method kd, 3 epochs; the share of images that it selects went from 50\u00a0% to 60\u00a0%, and 10.0\u00a0% "
        "changed in the last selection."
    )
    assert glance.training_line(evidence_of(project, choices={})) == "Method kd, 3 epochs."


def row(name: str, student: str, teacher: str) -> Mapping[str, str]:
    return {"class": name, "accuracy": student, "teacher_accuracy": teacher, "count": "10"}


def test_weakest_and_furthest_behind_are_two_things(project: Path) -> None:
    rows = [row("cat", "0.5", "0.55"), row("dog", "0.6", "0.9"), row("ship", "", "")]
    line = glance.classes_line(evidence_of(project, per_class=rows))
    assert line == (
        "Weakest: cat, 50.0\u00a0% (teacher 55.0\u00a0%). Furthest behind the teacher: dog, by 30.0 points."
    )
    better = [row("cat", "0.5", "0.4")]
    assert "behind" not in glance.classes_line(evidence_of(project, per_class=better))
    assert glance.classes_line(evidence_of(project, per_class=[row("ship", "", "")])) == ""


@pytest.mark.parametrize(
    ("bins", "word"),
    [
        ([(0.9, 0.6, 10), (0.5, 0.5, 10)], "surer than"),
        ([(0.5, 0.9, 10)], "less sure than"),
        ([(0.5, 0.51, 10)], "about as sure as"),
    ],
)
def test_sureness_is_that_of_the_images_not_of_the_bins(
    project: Path, bins: list[tuple[float, float, int]], word: str
) -> None:
    assert f"The student is {word} it is right" in glance.sureness_line(
        evidence_of(project, calibration=bins)
    )
    weighted = evidence_of(project, calibration=[(0.9, 0.0, 1), (0.5, 1.0, 3)])
    assert "60.0\u00a0% sure, 75.0\u00a0% right" in glance.sureness_line(weighted)


def kept(root: Path, name: str, top1: float, **changes: Any) -> None:
    value = {
        "params": FLAT | changes.pop("params", {}),
        "figures": {"top1": top1, "agreement": 0.8, "parameters": 1234, "test_images": 30},
        "student": "resnet8",
        "tests": digest(root / "tests.parquet"),
    }
    write_json(value | changes, root / "experiments" / f"{name}.json")


def test_a_sentence_links_only_to_what_is_there(project: Path) -> None:
    evidence = evidence_of(project)
    assert '<dt><a href="#training">Training</a></dt>' in glance.glance(evidence, {"training"})
    assert "<dt>Training</dt>" in glance.glance(evidence, {"fit"})
    short = "epoch,loss\n1,2.0\n"
    (project / "data/distill/curve.csv").write_text(short)
    (project / "data/distill/selection_history.csv").write_text("epoch,kept\n")
    text = rendered(project)
    assert '<section id="training">' not in text
    assert "#training" not in text


def test_without_kept_experiments_it_says_how_to_keep_one(project: Path) -> None:
    text = experiments(evidence_of(project))
    assert "python -m webdistill results --keep NAME" in text
    assert "<table" not in text
    assert glance.earlier_line(evidence_of(project)) == ""


def test_kept_experiments_stand_beside_this_one_best_first(project: Path) -> None:
    kept(project, "kd3", 0.85, params={"distill.method": "kd3", "report.hosts": "3"})
    kept(project, "again", 0.7)
    kept(project, "hostile", 0.1, student=HOSTILE, params={HOSTILE: HOSTILE})
    kept(project, "elsewhere", 0.99, tests="0" * 64)
    evidence = evidence_of(project)
    text = experiments(evidence)
    places = [text.index(f">{name}<") for name in ("kd3", "this one", "again", "hostile")]
    assert places == sorted(places)
    assert "<code>distill.method=kd3</code>" in text
    assert "report.hosts" not in text, "what the page shows makes no other student"
    assert "nothing: same parameters" in text
    assert "Left out: 1 measured on other test images." in text
    assert "elsewhere" not in text
    assert "<script" not in text
    assert glance.earlier_line(evidence) == (
        "Best of 3 kept: kd3, 85.0\u00a0%; this one is 5.0 points below it."
    )
    same = {**evidence.measured.figures, "top1": 0.85}
    assert glance.earlier_line(evidence_of(project, figures=same)) == (
        "Level with the best of 3 kept, kd3."
    )


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"params": {}, "figures": {}, "student": "", "tests": ""}']
)
def test_a_file_that_is_no_kept_experiment_is_named(project: Path, content: str) -> None:
    (project / "experiments/odd.json").write_text(content)
    with pytest.raises(UserError, match=r"odd\.json is no kept experiment"):
        evidence_of(project)


def test_a_teacher_of_unknown_size(project: Path) -> None:
    """One without weights of its own, such as an ONNX file: `evaluate` leaves out what it costs."""
    path = project / "data/evaluate/metrics.json"
    unknown = ("teacher_parameters", "parameter_ratio", "teacher_multiply_adds", "teacher_bytes")
    write_json({k: v for k, v in read_json(path).items() if k not in unknown}, path)
    evidence = gather(Stage(project))
    tiles = str(glance.glance(evidence, set()))
    assert "1 / " not in tiles
    assert "78.0\u00a0k" in tiles
    assert "12.0\u00a0M" in tiles
    text = card(evidence)
    assert " parameters); the teacher's own" not in text
    assert "| parameters | 78,042 |  |" in text
    assert "<td" in page(evidence)
