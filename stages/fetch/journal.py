"""Finished chunks on disk, each under a digest of all that decided it: a killed run continues where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

from stages.fetch.outcomes import Outcome
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, replace, write_table

TYPES = {"str": pa.string(), "int": pa.int64(), "bytes": pa.binary()}
SCHEMA = pa.schema(
    [(field.name, TYPES.get(str(field.type), pa.string())) for field in fields(Outcome)]
)


class Journal:
    """A folder of chunks, each whole or absent."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def load(self, key: str) -> list[Outcome] | None:
        """The outcomes saved under the key, or None when there are none or they cannot be read."""
        path = self._path(key)
        try:
            table = read_table(path, SCHEMA.names) if path.exists() else None
        except UserError:  # damaged on disk: as good as absent
            return None
        if table is None:
            return None
        columns = [table.column(name).to_pylist() for name in SCHEMA.names]
        return [Outcome(*values) for values in zip(*columns, strict=True)]

    def save(self, key: str, outcomes: Sequence[Outcome]) -> None:
        """Put the chunk in place in one step, on the disk when this returns."""
        columns = {name: [getattr(o, name) for o in outcomes] for name in SCHEMA.names}
        part = self._folder / f"{key}.part"
        write_table(pa.table(columns, schema=SCHEMA), part)
        replace(part, self._path(key))

    def keep_only(self, keys: Iterable[str]) -> None:
        """Remove all chunks but these, and what a kill left half-written."""
        kept = {self._path(key) for key in keys}
        for path in self._folder.iterdir():
            if path not in kept:
                path.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.parquet"


def digest(*parts: object) -> str:
    """A file name made of everything that decides a chunk's results."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
