"""What DVC says has changed since the main pipeline ran."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError

ABSENT = ("deleted", "not in cache")  # what dvc.lock names may be elsewhere: its hash is known
CODE = ("stages/", "webdistill/")  # never elsewhere


@dataclass(frozen=True)
class Change:
    """Of one stage: `webdistill/core: modified`, `params.yaml: distill.lr`, `changed command`."""

    stage: str
    what: str


def changes(root: Path) -> list[Change]:
    """All of them, but for files that are not here. Raises UserError with DVC's own words when it fails."""
    command = [sys.executable, "-m", "dvc", "status", "--json", "dvc.yaml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        status: dict[str, list[Any]] = json.loads(done.stdout)
    except ValueError:
        told = [
            line for line in done.stderr.splitlines() if line.strip() and line[0] != " "
        ]  # no excerpt of a file
        raise UserError(f"`dvc status` failed: {' '.join(told) or 'it said nothing'}") from None
    return [Change(stage, what) for stage, entries in status.items() for what in _told(entries)]


def _told(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if not isinstance(entry, dict):  # "changed command"
            yield str(entry)
            continue
        for changed in entry.values():
            for path, change in changed.items():
                if isinstance(change, dict):  # params.yaml: {"distill.lr": "modified"}
                    yield f"{path}: {', '.join(change)}"
                elif change not in ABSENT or path.startswith(CODE):
                    yield f"{path}: {change}"
