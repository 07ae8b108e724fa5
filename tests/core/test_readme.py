"""The README's links lead somewhere, its figures have records. Its commands: tests/docs/test_commands.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, commands


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_no_placeholder_is_left() -> None:
    assert not [page for page in PAGES if "@@" in page.read_text()]


def test_every_record_of_the_readme_has_command_and_hardware() -> None:
    named = set(re.findall(r"\]\((records/[^)]+)\)", (ROOT / "README.md").read_text()))
    assert named
    for folder in named:
        found = json.loads((ROOT / folder / "record.json").read_text())
        assert found["claim"], folder
        assert found["command"], folder
        assert found["hardware"]["processor"], folder


def test_the_readme_runs_the_two_commands() -> None:
    assert {"make repro", "make test", "dvc repro"} <= set(commands(ROOT / "README.md"))
