"""docs/parameters.md says what the schemas and params.yaml say."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from webdistill.commands.reference import main, page, readers, rows
from webdistill.core.section import Section
from webdistill.harness.params import STAGES, read_yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "parameters.md"


def test_the_page_is_up_to_date() -> None:
    written, wanted = PAGE.read_text(encoding="utf-8"), page(ROOT)
    changed = [
        line
        for line in difflib.unified_diff(written.splitlines(), wanted.splitlines(), n=0)
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert not changed, (
        "docs/parameters.md is stale; run `python -m webdistill.commands.reference > docs/parameters.md`\n"
        + "\n".join(changed[:10])
    )
    assert written == wanted


def test_it_has_every_key_of_params_yaml_in_its_section() -> None:
    found: dict[str, set[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = found.setdefault(line[3:], set())
        elif match := re.match(r"\| `([\w.]+)` \|", line):
            section.add(match[1])

    def leaves(values: dict[str, object], prefix: str = "") -> set[str]:
        out: set[str] = set()
        for key, value in values.items():
            nested = isinstance(value, dict) and value
            out |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key}
        return out

    values = read_yaml(ROOT / "params.yaml")
    assert list(found) == ["task", *STAGES]
    wanted = {name: leaves(section) for name, section in values.items()}
    wanted["distill"] -= {
        name for name, value in values["distill"].items() if value == {}
    }  # no options
    assert found == wanted


def test_a_section_is_read_by_its_own_stage() -> None:
    pipeline = read_yaml(ROOT / "dvc.yaml")
    for name in STAGES[:-1]:
        key = "lr" if name == "distill" else "any"  # its keys are listed one by one
        assert readers(pipeline, f"{name}.{key}") == [name]
    assert readers(pipeline, "task.test_labels") == ["evaluate"]
    assert readers(pipeline, "task.image_size") == ["score", "distill", "evaluate"]


class Inner(Section):
    """."""

    share: Annotated[float, Field(gt=0, le=1, description="a share")]


class Example(Section):
    """."""

    count: Annotated[Annotated[int, Field(ge=1_000)] | None, Field(description="a | b; null = all")]
    words: Annotated[tuple[str, ...], Field(min_length=2, description="words")]
    inner: Annotated[Inner, Field(description="more")]


def test_types_bounds_and_sub_sections() -> None:
    values = {"count": None, "words": ["a", "b"], "inner": {"share": 0.5}}
    found = [(r.key, r.allowed, r.bounds, r.value, r.meaning) for r in rows(Example, values)]
    assert found == [
        ("count", "integer or `null`", "≥ 1,000", None, "a | b; null = all"),
        ("words", "list of strings", "at least 2", ["a", "b"], "words"),
        ("inner:", "", "", None, "more"),
        ("inner.share", "number", "> 0, ≤ 1", 0.5, "a share"),
    ]


def test_the_program_prints_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([]) == 0
    assert capsys.readouterr().out == page(ROOT)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: there is no ")
