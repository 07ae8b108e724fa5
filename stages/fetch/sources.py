"""Bodies that need no network: bytes embedded in the list, and files in the list's folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.fetch.outcomes import Body
from webdistill.core.errors import UserError


class EmbeddedImages:
    """Bytes by row number of the list; cheap when rows are asked for in rising order."""

    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._column = column
        self._file: pq.ParquetFile | None = None
        self._ends: list[int] = []
        self._group = -1
        self._bytes: pa.ChunkedArray | None = None

    def read(self, row: int, max_bytes: int) -> Body:
        """Raises UserError when the list is damaged."""
        try:
            value = self._value(row)
        except (pa.ArrowException, OSError, IndexError) as error:
            raise UserError(
                f"{self._path} is damaged: {str(error).splitlines()[0]}; restore it"
            ) from None
        if value is None:
            return Body("not_found", detail="the list holds no bytes in this row")
        if len(value) > max_bytes:
            return Body("too_large", detail=f"{len(value)} bytes")
        return Body("ok", value)

    def close(self) -> None:
        """Close the list."""
        if self._file is not None:
            self._file.close()

    def _value(self, row: int) -> bytes | None:
        if self._file is None:
            self._file = pq.ParquetFile(self._path, page_checksum_verification=True)
            end = 0
            for group in range(self._file.num_row_groups):
                end += self._file.metadata.row_group(group).num_rows
                self._ends.append(end)
        group = next(g for g, end in enumerate(self._ends) if row < end)
        if group != self._group or self._bytes is None:
            column = self._file.read_row_group(group, columns=[self._column]).column(0)
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "bytes")
            self._group, self._bytes = group, column
        value: bytes | None = self._bytes[row - (self._ends[group - 1] if group else 0)].as_py()
        return value


def read_file(folder: Path, name: str, max_bytes: int) -> Body:
    """The file `name` (relative to `folder`, or absolute) if it lies in `folder` once all links are followed."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return Body("outside_folder")
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return Body("not_found", detail="not a regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # ValueError: a NUL; RuntimeError: links in a circle
        return Body("not_found", detail=type(error).__name__)
    if len(data) > max_bytes:
        return Body("too_large", detail=f"{facts.st_size} bytes")
    return Body("ok", data)


def file_mark(folder: Path, name: str) -> tuple[int, int]:
    """Size and time of change in ns, so that kept results of a file that changed are not used; zeros if absent."""
    try:
        facts = (folder / name).stat()
    except (OSError, ValueError):
        return 0, 0
    return facts.st_size, facts.st_mtime_ns
