"""The figure of docs/concepts.md follows dvc.yaml."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

from webdistill.harness.params import STAGES, read_yaml

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs" / "images" / "concepts.svg"
PIPELINE = read_yaml(ROOT / "dvc.yaml")["stages"]


@pytest.fixture(scope="module")
def concepts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("concepts", FIGURE.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["concepts"] = module
    spec.loader.exec_module(module)
    return module


def test_the_figure_is_up_to_date(concepts: ModuleType) -> None:
    hint = "run `python docs/images/concepts.py > docs/images/concepts.svg`"
    assert FIGURE.read_text(encoding="utf-8") == concepts.picture(PIPELINE), hint
    assert ET.parse(FIGURE).getroot().tag.endswith("svg")


def test_what_runs_again_is_what_dvc_would_run(concepts: ModuleType) -> None:
    assert set(concepts.STAGES) == set(STAGES)
    assert concepts.first(PIPELINE, "filter.min_score") == {"filter", "report"}
    assert concepts.first(PIPELINE, "takedown.txt") == {"filter"}
    assert concepts.first(PIPELINE, "task.test_labels") == {"evaluate", "report"}
    assert concepts.after(PIPELINE, {"embed"}) == set(STAGES) - {
        "search", "fetch", "embed", "score",
    }  # fmt: skip
    assert concepts.after(PIPELINE, {"evaluate"}) == {"report"}
    for change in concepts.CHANGES:
        assert concepts.first(PIPELINE, change), f"dvc.yaml has no {change}"
        section, dot, key = change.partition(".")
        assert not dot or section not in STAGES or key in read_yaml(ROOT / "params.yaml")[section]
