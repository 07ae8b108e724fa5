"""The README's links lead somewhere, its commands exist, its parameters are real."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core.params import load

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "pipelines").glob("*/README.md")),
]


def commands(page: Path) -> list[str]:
    """Lines of shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines if line for part in line.split("&&")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_things_that_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(page):
        words = command.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), command
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) is not None, command
        elif words[0] == "dvc":
            depth = 3 if words[1] in ("exp", "metrics", "plots") else 2
            shown = subprocess.run(
                [sys.executable, "-m", *words[:depth], "--help"], capture_output=True, text=True
            )
            assert shown.returncode == 0, command
        else:
            assert words[0] in ("python3", ".", "pip", "mlflow", "cat", "git", "find", "rm"), (
                command
            )


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


def test_overrides_in_the_readme_are_valid_parameters() -> None:
    found = re.findall(r"-S (\S+)", (ROOT / "README.md").read_text())
    assert found
    load(ROOT / "params.yaml", found)
