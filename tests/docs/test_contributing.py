"""CONTRIBUTING.md: the files that its recipes name exist, and hold the names that they are said to hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
HOLDERS = ("NAME", "STAGE", "FAMILY", "KEY", "MODULE")  # stand for a name of the reader's own


def quoted(section: str) -> list[str]:
    found = re.findall(r"`([^`\n]+)`", section.replace("```", ""))
    return [name for name in found if not any(holder in name for holder in HOLDERS)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_files_exist_and_hold_the_names_of_a_recipe(section: str) -> None:
    paths = [n for n in quoted(section) if re.fullmatch(r"[\w./*]+\.(py|md|yaml)|(\w+/)+\w*", n)]
    files = [[*ROOT.glob(name)] for name in paths]
    assert all(files), paths
    texts = [path.read_text() for found in files for path in found if path.is_file()]
    text = "\n".join([*texts, (ROOT / "params.yaml").read_text(), (ROOT / "dvc.yaml").read_text()])
    names = [name for name in quoted(section) if re.fullmatch(r"--\w+|\w+", name)]
    assert not [name for name in names if name not in text]
