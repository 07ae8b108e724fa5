"""The figure of accuracy against steps and time: its figures, and that it is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.compare.ladder import draw, mean_curve, step_costs
from pipelines.shared.table import Cell, Comparison


def curve(path: Path, *values: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{at + 1},{value}\n" for at, value in enumerate(values))
    path.write_text(f"epoch,holdout_agreement\n{rows}")
    return path


def test_costs_are_multiples_of_the_first_methods() -> None:
    seconds = {"kd": [1.0, 3.0], "kd: networks alone": [1.0, 1.0], "kd3": [4.0, 4.0]}
    measured = {"setting": {"methods": ["kd", "kd3"]}, "seconds_per_step": seconds}
    assert step_costs(measured) == {"kd": 1.0, "kd3": 2.0}


def test_curves_are_means_over_seeds_in_per_cent(tmp_path: Path) -> None:
    paths = [curve(tmp_path / "a.csv", 0.2, 0.5), curve(tmp_path / "b.csv", 0.4, 0.7)]
    assert mean_curve(paths) == pytest.approx([30.0, 60.0])


def test_arms_of_other_images_are_left_out_of_the_figure(tmp_path: Path) -> None:
    arms = {
        arm: [Cell(arm, seed, 0.5, 0.5, 20, 9, 0.9) for seed in (0, 1)] for arm in ("kd", "other")
    }
    for cell in arms["kd"]:  # of the other arm there is no curve
        curve(tmp_path / "cells" / cell.name / "distill" / "curve.csv", 0.1, 0.2)
    draw(Comparison(arms, [], {}, {}), {"kd": 1.0}, {"kd": "kd"}, tmp_path)
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
