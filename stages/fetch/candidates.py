"""candidates.parquet as fetch reads it, with the lists, tars and folders whose bytes it points to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file

COLUMNS = (
    "url", "source", "file", "row", "provider", "query", "caption", "licence", "licence_url", "creator",
    "landing_page", "attribution", "opt_out", "sha256", "md5", "origin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """What fetching one row needs."""

    url: str
    source: str
    file: str
    row: int
    opt_out: str


@dataclass(frozen=True)
class Held:
    """A list, tar or folder that holds bytes; `sha256` and `column` (with the images) are "" where there is none."""

    path: Path
    sha256: str
    column: str

    @property
    def apart(self) -> bool:
        """Whether it is a picture that a list names, and so perhaps outside of search.local."""
        return not self.sha256 and self.path.is_file()


@dataclass(frozen=True)
class Candidates:
    """All rows of candidates.parquet, and what their column `file` names."""

    table: pa.Table
    held: Mapping[str, Held]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def part(self, start: int, length: int) -> list[Candidate]:
        """Rows [start, start + length) as values."""
        columns = [
            self.table.column(name).slice(start, length).to_pylist()
            for name in Candidate.__annotations__
        ]
        return [Candidate(*values) for values in zip(*columns, strict=True)]

    def find(self, file: str) -> Held:
        """What a candidate's column `file` names."""
        return self.held[file]


def read_candidates(path: Path, find: Callable[[str], Path]) -> Candidates:
    """Read the candidates; `find` turns search.local into its path (and raises UserError when it is gone).

    Raises UserError when bytes are to be read from a list or tar that changed since search ran.
    """
    table = read_table(path, COLUMNS)
    names = sorted(set(table.column("file").unique().to_pylist()) - {""})
    if not names:  # all on the web: the lists are not needed any more
        return Candidates(table, {})
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    local, facts = header.get("local", ""), json.loads(header.get("files", "{}"))
    root = find(local)
    held = {}
    for name in names:
        known = facts.get(name, {})
        place = Path(os.path.normpath(root / os.path.relpath(name, local)))
        held[name] = Held(place, known.get("sha256", ""), known.get("column", ""))
        if held[name].sha256:
            _check_unchanged(name, held[name])
    return Candidates(table, held)


def _check_unchanged(name: str, held: Held) -> None:
    if not held.path.is_file() or sha256_file(held.path) != held.sha256:
        raise UserError(f"{name} changed since search read it; run `dvc repro search` first")
