"""candidates.parquet as fetch reads it, with the list that the embedded and local ones point into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, sha256_file

COLUMNS = (
    "url", "source", "row", "query", "caption", "licence", "licence_url", "creator", "landing_page", "opt_out",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """What fetching one row needs."""

    url: str
    source: str
    row: int
    opt_out: str


@dataclass(frozen=True)
class Candidates:
    """All rows of candidates.parquet. `list_path`: the list they came from; its digest; its image column."""

    table: pa.Table
    list_path: Path
    list_sha256: str
    image_column: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def part(self, start: int, length: int) -> list[Candidate]:
        """Rows [start, start + length) as values."""
        columns = [
            self.table.column(name).slice(start, length).to_pylist()
            for name in Candidate.__annotations__
        ]
        return [Candidate(*values) for values in zip(*columns, strict=True)]


def read_candidates(path: Path, find: Callable[[str], Path]) -> Candidates:
    """Read the candidates; `find` turns the list's name into its path (and raises UserError when it is gone).

    Raises UserError when bytes are to be read from a list that changed since search ran.
    """
    table = read_table(path, COLUMNS)
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    name, digest = header.get("list", ""), header.get("list_sha256", "")
    sources = set(table.column("source").unique().to_pylist())
    if sources <= {"http"}:
        return Candidates(table, Path(name), digest, "")
    found = find(name)
    if "embedded" in sources and sha256_file(found) != digest:
        raise UserError(f"{name} changed since search read it; run `dvc repro search` first")
    return Candidates(table, found, digest, header.get("image_column", "image"))
