"""Cells -> table, interval, picture and tracked comparison, against figures worked out by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.shared import track
from pipelines.shared.table import compare, markdown, write
from pipelines.shared.welch import interval, t_quantile
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, write_json
from webdistill.harness import spool


def cell(
    folder: Path,
    name: str,
    top1: float,
    steps: int = 1200,
    teacher: float = 0.9,
    images: int = 4000,
) -> None:
    for stage in ("evaluate", "distill"):
        (folder / "cells" / name / stage).mkdir(parents=True, exist_ok=True)
    figures = {"top1": top1, "agreement": 0.5, "teacher_top1": teacher}
    write_json(figures, folder / "cells" / name / "evaluate" / "metrics.json")
    trained = {"steps": steps, "images": images}
    write_json(trained, folder / "cells" / name / "distill" / "metrics.json")


def settings(**changes: Any) -> dict[str, Any]:
    values = {
        "stages": ["distill", "evaluate"],
        "seeds": [0, 1, 2],
        "arms": {"top-k": {"select.rule": "confident"}, "random": {"select.rule": "random"}},
    }
    return {**values, **changes}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """random: 70, 72, 74 % (mean 72, sd 2); top-k: 80 %, one seed."""
    for seed, top1 in enumerate((0.70, 0.72, 0.74)):
        cell(tmp_path, f"random-{seed}", top1)
    cell(tmp_path, "top-k-0", 0.80)
    return tmp_path


def test_mean_and_sample_standard_deviation_best_first(pipeline: Path) -> None:
    lines = markdown(compare(pipeline, settings())).splitlines()
    assert lines[2:5] == [
        "| top-k | 1 | 4,000 | 1,200 | 80.00 | 50.00 |",
        "| random | 3 | 4,000 | 1,200 | 72.00 ± 2.00 | 50.00 ± 0.00 |",
        "| teacher |  |  |  | 90.00 |  |",
    ]
    assert lines[-1] == "not yet run: top-k-1, top-k-2"


def test_difference_to_the_baseline_with_its_interval(pipeline: Path) -> None:
    """b: 75, 77, 79 %, sd 2 as well: difference 5, standard error 2 sqrt(2/3), 4 degrees of freedom."""
    for seed, top1 in enumerate((0.75, 0.77, 0.79)):
        cell(pipeline, f"b-{seed}", top1)
    arms = {"random": {}, "b": {}, "top-k": {}}
    lines = markdown(compare(pipeline, settings(arms=arms, baseline="random"))).splitlines()
    half = 2.7764451 * 2 * math.sqrt(2 / 3)
    assert lines[0].endswith("| top-1 minus random, points |")
    assert lines[2].endswith("| 80.00 | 50.00 | +8.00 |")  # one seed has no interval
    assert lines[3].endswith(f"| +5.00 [{5 - half:+.2f}, {5 + half:+.2f}] |")
    assert lines[4].endswith("| 72.00 ± 2.00 | 50.00 ± 0.00 |  |")


def test_arms_with_baselines_of_their_own_stay_in_order_and_show_both_answers(
    tmp_path: Path,
) -> None:
    """raw and compensated figures of the arm that has them; no difference for the baselines themselves."""
    for name, top1 in {"kd-0": 0.5, "kd_on-0": 0.6, "kd3-0": 0.7, "kd3_on-0": 0.68}.items():
        cell(tmp_path, name, top1)
    path = tmp_path / "cells" / "kd_on-0" / "evaluate" / "metrics.json"
    both = {"top1": 0.6, "agreement": 0.5, "teacher_top1": 0.9}
    write_json(both | {"raw_top1": 0.61, "compensated_top1": 0.6}, path)
    arms = {"kd": {}, "kd_on": {}, "kd3": {}, "kd3_on": {}}
    baseline = {"kd_on": "kd", "kd3_on": "kd3"}
    comparison = compare(tmp_path, settings(arms=arms, baseline=baseline, seeds=[0]))
    lines = [line.split(" | ") for line in markdown(comparison).splitlines()]
    assert lines[0][4:8] == [
        "top-1 raw, %", "top-1 raw minus its baseline, points",
        "top-1 compensated, %", "top-1 compensated minus its baseline, points",
    ]  # fmt: skip
    assert [line[0] for line in lines[2:6]] == [
        "| kd", "| kd_on, against kd", "| kd3", "| kd3_on, against kd3",
    ]  # fmt: skip
    assert lines[2][4:8] == ["50.00", "", "", ""]
    assert lines[3][4:8] == ["61.00", "+11.00", "60.00", "+10.00"]
    assert lines[5][4:8] == ["68.00", "-2.00", "", ""]  # had no compensation after all
    assert lines[6][4] == "90.00"


def test_only_named_arms_and_seeds_are_tabled(pipeline: Path) -> None:
    cell(pipeline, "random-3", 0.9)
    cell(pipeline, "old-0", 0.9)
    (pipeline / "cells" / "top-k-1" / "distill").mkdir(parents=True)  # unfinished
    comparison = compare(pipeline, settings())
    assert [c.name for c in comparison.cells] == ["top-k-0", "random-0", "random-1", "random-2"]


def test_references_are_shown_when_they_are_there(pipeline: Path, tmp_path: Path) -> None:
    write_json({"top1": 0.85, "sd": 0.015, "agreement": 0.75}, tmp_path / "original.json")
    named = {"on original data": str(tmp_path / "original.json"), "later": str(tmp_path / "none")}
    text = markdown(compare(pipeline, settings(references=named)))
    assert "| on original data |  |  |  | 85.00 ± 1.50 | 75.00 |\n| teacher |" in text
    assert text.endswith("not yet run: top-k-1, top-k-2, later\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1300}, r"equally many optimiser steps .*: 1,300: top-k-0; 1,200: random-0, r"),
        ({"teacher": 0.8}, r"differ in teacher or test set .*: 0\.8: top-k-0; 0\.9: random-0, r"),
    ],
)
def test_cells_that_cannot_be_compared_are_refused(
    pipeline: Path, changes: dict[str, Any], message: str
) -> None:
    cell(pipeline, "top-k-0", 0.8, **changes)
    with pytest.raises(UserError, match=message):
        compare(pipeline, settings())


def test_no_cell_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished cell in"):
        compare(tmp_path, settings())


def test_files_and_their_bytes_are_the_same_each_time(pipeline: Path) -> None:
    from PIL import Image

    comparison = compare(pipeline, settings(baseline="random"))
    paths = write(comparison, pipeline)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(comparison, pipeline)] == before
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["arm"] == "top-k"
    assert [float(row["top1"]) for row in rows] == [0.8, 0.7, 0.72, 0.74]
    with Image.open(paths[2]) as picture:
        width, height = picture.size
        assert width > 2 * height > 200
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_quantiles_of_student_agree_with_closed_forms() -> None:
    """df 1: tan(pi (p - 1/2)); df 2: a sqrt(2 / (1 - a^2)), a = 2p - 1; df 4, 10: printed tables."""
    for p in (0.6, 0.9, 0.975, 0.995):
        a = 2 * p - 1
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-7)
        assert t_quantile(p, 2) == pytest.approx(a * math.sqrt(2 / (1 - a * a)), rel=1e-7)
    assert t_quantile(0.975, 4) == pytest.approx(2.7764451, rel=1e-6)
    assert t_quantile(0.975, 10) == pytest.approx(2.2281389, rel=1e-6)
    assert t_quantile(0.975, 1e4) == pytest.approx(1.9602012, rel=1e-5)


def test_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with mlflow")
    own, other = [70.1, 72.9, 71.3], [68.0, 75.5, 64.2, 71.0]
    expected = stats.ttest_ind(own, other, equal_var=False).confidence_interval(0.95)
    assert interval(own, other) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_interval_of_too_few_or_equal_values() -> None:
    assert interval([1.0], [1.0, 2.0]) is None
    assert interval([3.0, 3.0], [1.0, 1.0]) == (2.0, 2.0)


def test_a_comparison_is_one_record_and_one_per_cell(pipeline: Path) -> None:
    named = settings(common={"distill": {"epochs": 3}}, baseline="random")
    done = compare(pipeline, named)
    picture = pipeline / "comparison.png"
    own, cells = track.records(pipeline, named, [c.name for c in done.cells], [picture])
    assert (own.name, own.artifacts) == (pipeline.name, [picture])
    assert own.parent_params == {"distill.epochs": 3}
    assert own.metrics["random.top1"] == pytest.approx(0.72)
    assert [c.cell for c in cells] == ["top-k-0", "random-0", "random-1", "random-2"]
    assert {c.parent_key for c in cells} == {own.parent_key}
    assert len({c.key for c in cells}) == 4
    assert cells[1].params == {
        "arm": "random", "seed": 0, "distill.epochs": 3, "task.seed": 0, "select.rule": "random",
    }  # fmt: skip
    assert cells[1].metrics["evaluate.top1"] == 0.70
    assert cells[1].metrics["distill.steps"] == 1200


def test_a_comparison_tells_both_answers_of_deconfounded_students(pipeline: Path) -> None:
    for seed, raw in ((0, 0.61), (1, 0.63)):
        path = pipeline / "cells" / f"random-{seed}" / "evaluate" / "metrics.json"
        write_json({**read_json(path), "raw_top1": raw, "compensated_top1": 0.6}, path)
    own, _ = track.records(pipeline, settings(), ["random-0", "random-1", "top-k-0"], [])
    assert own.metrics["random.raw_top1"] == pytest.approx(0.62)
    assert own.metrics["random.compensated_top1"] == pytest.approx(0.6)
    assert {"top-k.top1", "top-k.agreement"} == {k for k in own.metrics if k.startswith("top-k")}


def test_keys_tell_comparisons_apart_and_stay_when_cells_are_added(pipeline: Path) -> None:
    def keys(named: dict[str, Any], cells: list[str]) -> list[str]:
        own, rest = track.records(pipeline, named, cells, [])
        return [own.parent_key, *(record.key for record in rest)]

    first = keys(settings(), ["random-0"])
    assert keys(settings(arms={**settings()["arms"], "new": {}}), ["random-0"]) == first
    assert keys(settings(), ["random-0", "random-1"])[:2] == first
    longer = keys(settings(common={"distill.epochs": 9}), ["random-0"])
    assert not set(longer) & set(first)


def test_tracking_can_be_switched_off(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline)
    monkeypatch.setenv("WEBDISTILL_TRACKING", "off")
    track.submit(pipeline, settings(), ["random-0"], [])
    assert not (pipeline / ".work").exists()
    started: list[Path] = []
    monkeypatch.delenv("WEBDISTILL_TRACKING")
    monkeypatch.setattr(spool, "launch_flush", started.append)
    track.submit(pipeline, settings(), ["random-0", "random-1"], [])
    assert len(started) == 1
    assert len(list((pipeline / ".work" / "spool").glob("*.json"))) == 3


def test_an_arm_that_runs_fewer_stages_is_tracked_with_those(pipeline: Path) -> None:
    arms = {"top-k": {"stages": ["evaluate"]}, "random": {"select.rule": "random"}}
    (pipeline / "cells/top-k-0/distill/metrics.json").unlink()
    _, (own, other) = track.records(pipeline, settings(arms=arms), ["top-k-0", "random-0"], [])
    assert {name.partition(".")[0] for name in own.metrics} == {"evaluate"}
    assert {name.partition(".")[0] for name in other.metrics} == {"evaluate", "distill"}
    assert "stages" not in own.params
