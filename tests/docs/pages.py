"""The pages of the documentation and the commands in their shell blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "pipelines" / "README.md",
    *sorted((ROOT / "pipelines").glob("*/README.md")),
]


def commands(page: Path) -> list[str]:
    """Lines of shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines if line for part in line.split("&&")]


def all_commands() -> dict[str, str]:
    """Every command, with the first page that has it."""
    found: dict[str, str] = {}
    for page in PAGES:
        for command in commands(page):
            found.setdefault(command, page.relative_to(ROOT).as_posix())
    return found
