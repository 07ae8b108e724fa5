"""Training by two processes computes what one does: in float64 to rounding, in one float32 step to 1e-5."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from stages.distill.method_params import METHODS, ROUNDS
from tests.stages.rank_of_runs import RUNS
from webdistill.core.errors import UserError
from webdistill.harness.params import load

ROOT = Path(__file__).parents[2]
# Their first Adam step divides gradients that are zero but for rounding by their own size.
GENERATING = {"mosaic", "augkd", "dafl"}
Found = tuple[dict[str, Any], list[dict[str, Any]]]  # of one process, of each of two


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All runs, trained by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.stages.rank_of_runs", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([*command, rank, count], env=environment, cwd=ROOT)
        for rank, count in ("01", "02", "12")
    ]
    assert [each.wait(timeout=300) for each in started] == [0, 0, 0]
    one, *two = (torch.load(folder / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))  # fmt: skip
    return one, two


def far(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Relative distance of every tensor and figure that is not zero."""
    distances = {
        name: float((value - other["state"][name]).norm() / value.norm())
        for name, value in one["state"].items()
        if value.is_floating_point() and value.norm() > 1e-6
    }
    assert len(one["rows"]) == len(other["rows"])
    for row, others in zip(one["rows"], other["rows"], strict=True):
        assert row.keys() == others.keys()
        for key, value in row.items():
            gap = abs(value - others[key]) / (abs(value) + 1e-9)
            distances[key] = max(distances.get(key, 0.0), gap)
    return distances


def test_every_method_is_tried_or_refused() -> None:
    tried = {run.get("method") for run in RUNS.values()}
    assert tried | set(ROUNDS) == set(get_args(METHODS))


@pytest.mark.parametrize("name", RUNS)
def test_six_float64_steps_are_those_of_one_process(found: Found, name: str) -> None:
    one, (two, _) = found
    distances = far(one[name], two[name])
    assert max(distances.values()) < 1e-12, distances
    assert two[name]["history"] == one[name]["history"]


@pytest.mark.parametrize("name", [name for name in RUNS if name not in GENERATING])
def test_a_float32_step_is_that_of_one_process(found: Found, name: str) -> None:
    one, (two, _) = found
    distances = far(one[f"{name}, one step"], two[f"{name}, one step"])
    limit = 1e-4 if "compensated" in name else 1e-5  # whose running statistics are near zero
    assert max(distances.values()) < limit, distances


@pytest.mark.parametrize("name", RUNS)
def test_both_processes_have_the_same_bits(found: Found, name: str) -> None:
    _, (first, second) = found
    assert first[name]["rows"] == second[name]["rows"]
    for key, value in first[name]["state"].items():
        assert torch.equal(value, second[name]["state"][key]), key


def test_normalisation_is_that_of_one_process(found: Found) -> None:
    """Against torch's own layers, which the one process has."""
    one, (two, _) = found
    assert len(one["norms"]) == len(two["norms"]) > 50
    torch.testing.assert_close(two["norms"], one["norms"], rtol=1e-12, atol=1e-12)


def test_parts_done_in_turn_come_in_order_and_as_one_process_computes_them(found: Found) -> None:
    one, two = found
    for other in two:
        assert len(other["turns"]) == len(one["turns"]) == 1 + 2 + 5
        for mine, theirs in zip(other["turns"], one["turns"], strict=True):
            assert same(list(mine.values()), list(theirs.values()))


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


def test_a_loss_that_is_not_finite_on_one_rank_is_told_by_all_as_by_one_process(
    found: Found,
) -> None:
    one, two = found
    assert "the loss is not finite; lower distill.lr" in one["message"]
    assert [each["message"] for each in two] == [one["message"]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 3}, "batch_size = 32 does not divide by processes = 3"),
        ({"processes": 16, "method": "kd3"}, r"contrast_share = 0.25 of batch_size = 32 is 8 images"),
        *[({"processes": n, "method": m}, f"{m} makes its images in rounds of one process; set processes: 1")
          for m in ROUNDS for n in (2, "gpus")],
        ({"processes": 0}, "distill.processes = 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_one_line_before_any_work(
    changes: dict[str, Any], message: str
) -> None:
    overrides = [f"distill.{key}={value}" for key, value in changes.items()]
    with pytest.raises(UserError, match=message):
        load(ROOT / "params.yaml", overrides)
