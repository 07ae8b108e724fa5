"""The example method of docs/methods.md trains, chooses and resumes like any other."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stages.distill.checkpoint import restore, save
from stages.distill.loop import Run
from stages.distill.params import Distill
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


@pytest.fixture
def example(tmp_path: Path) -> ModuleType:
    """The page's only Python block, imported."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    path = tmp_path / "hint_example.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location("hint_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hint_example"] = module
    spec.loader.exec_module(module)
    return module


def make(example: ModuleType) -> Run:
    overrides = ["distill.epochs=4", "distill.batch_size=8", "distill.precision=float32"]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (32, 16, 16, 3), dtype=torch.uint8)
    teacher = build("resnet14", 3).eval().requires_grad_(False)
    views = Views(pool, (0.5,) * 3, (0.25,) * 3, seed=0, min_scale=0.5, mixup=0.0)
    return Run(
        settings=settings, seed=0, views=views, teacher=teacher,
        method=example.Hint(build("resnet8", 3), teacher, 4.0), weight=torch.ones(32),
        ids=[str(i) for i in range(32)], classes=("a", "b", "c"),
    )  # fmt: skip


def test_the_example_trains_on_what_it_chose(example: ModuleType) -> None:
    run = make(example)
    before = run.method.student().fc.weight.clone()
    for number in range(4):
        list(run.epoch(number))
    assert run.history.rows[0]["kept_share"] == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(run.method.student().fc.weight, before)
    assert run.rows[-1]["hint"] < run.rows[0]["hint"]


def test_the_example_resumes_bit_for_bit(example: ModuleType, tmp_path: Path) -> None:
    whole, first, second = make(example), make(example), make(example)
    for number in range(4):
        list(whole.epoch(number))
    list(first.epoch(0))
    save(first, tmp_path / "state.pt")
    for number in range(restore(second, tmp_path / "state.pt"), 4):
        list(second.epoch(number))
    assert second.rows == whole.rows


def test_the_example_is_as_short_as_promised() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    code = [line for line in block.splitlines() if line.strip()]
    assert len(code) <= 40


def test_every_method_has_a_row() -> None:
    table = (
        PAGE.read_text().partition("\n## The methods and their values\n")[2].partition("\n## ")[0]
    )
    named = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    choices = Distill.model_fields["method"].annotation
    assert named == set(choices.__args__)
