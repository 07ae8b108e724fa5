"""docs/promises.md: every promise is there, every test that it names exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
KINDS = {"F": 15, "I": 4, "S": 10, "R": 10, "T": 10, "M": 6, "K": 6, "E": 3}
PROMISES = {f"{kind}{n}" for kind, count in KINDS.items() for n in range(1, count + 1)} - {"M3"}
ROWS = dict(re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE))


@functools.cache
def functions(file: Path) -> set[str]:
    """Tests of a file that pytest collects."""
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_a_row() -> None:
    assert set(ROWS) == PROMISES


@pytest.mark.parametrize("promise", sorted(PROMISES))
def test_the_tests_that_prove_a_promise_exist(promise: str) -> None:
    sentence, proof = ROWS[promise].split(" | ")
    assert sentence.rstrip("*").endswith(".")
    named = re.findall(r"\[\w+\]\(\.\./(tests/[\w/]+\.py)\): ((?:`test_\w+`(?:, )?)+)", proof)
    assert named, promise
    assert len(re.findall(r"`test_\w+`", proof)) == sum(
        len(re.findall(r"`test_\w+`", tests)) for _, tests in named
    ), "each test stands behind its file"
    for file, tests in named:
        for name in set(re.findall(r"`(test_\w+)`", tests)) - functions(ROOT / file):
            now = [each for each in (ROOT / "tests").rglob("test_*.py") if name in functions(each)]
            where = ", ".join(str(each.relative_to(ROOT)) for each in now) or "no file"
            pytest.fail(f"{promise}: {file} has no {name}; {where} has it: change docs/promises.md")


def test_promises_of_the_readme_lead_to_tests() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((tests/[^)#]*)\)", text):
        assert list((ROOT / target).glob("test_*.py")) or functions(ROOT / target)
