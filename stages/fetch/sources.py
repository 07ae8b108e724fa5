"""Bodies that need no network: bytes in a list's column, members of a tar, files in a folder."""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.fetch.candidates import Candidate, Held
from stages.fetch.outcomes import Body
from webdistill.core.errors import UserError
from webdistill.images.tars import read_members

BATCH = 4  # rows of a list in memory at a time,
BUFFER = 1 << 20  # and bytes read ahead


class _Bytes(Protocol):
    """A list or a tar: bytes by number, cheap in rising order."""

    def read(self, row: int, max_bytes: int) -> Body: ...

    def close(self) -> None: ...


class LocalImages:
    """Bytes of candidates that are not on the web; cheap when rows of one list or tar come together, in rising order.

    `find`: what a candidate's column `file` names, as `Candidates.find`.
    """

    def __init__(self, find: Callable[[str], Held]) -> None:
        self._find = find
        self._open: tuple[str, _Bytes] | None = None

    def read(self, one: Candidate, max_bytes: int) -> Body:
        """The bytes, or why there are none. Raises UserError when the list or tar is damaged."""
        held = self._find(one.file)
        if one.source == "file":
            return read_file(held.path, one.url, max_bytes)
        if self._open is None or self._open[0] != one.file:
            self.close()
            kind = TarImages if one.source == "tar" else EmbeddedImages
            self._open = one.file, kind(held)
        return self._open[1].read(one.row, max_bytes)

    def mark(self, one: Candidate) -> tuple[object, ...]:
        """Facts that change when the candidate's bytes may have changed."""
        if one.source == "http":
            return ()
        held = self._find(one.file)
        return file_mark(held.path, one.url) if one.source == "file" else (held.sha256, held.column)

    def close(self) -> None:
        """Close the list or tar that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class EmbeddedImages:
    """Bytes by row number of a Parquet list."""

    def __init__(self, held: Held) -> None:
        self._path = held.path
        self._column = held.column
        self._file: pq.ParquetFile | None = None
        self._rows: Iterator[pa.Array] = iter(())
        self._first = 0  # row number of the batch at hand
        self._batch: pa.Array = pa.array([], pa.binary())

    def read(self, row: int, max_bytes: int) -> Body:
        """Raises UserError when the list is damaged."""
        try:
            value = self._value(row)
        except (pa.ArrowException, OSError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self._path} is damaged: {reason}; restore it") from None
        if not value.is_valid:
            return Body("not_found", detail="the list holds no bytes in this row")
        data = value.as_buffer()
        if data.size > max_bytes:
            return Body("too_large", detail=f"{data.size} bytes")
        return Body("ok", data.to_pybytes())

    def close(self) -> None:
        """Close the list."""
        if self._file is not None:
            self._file.close()

    def _value(self, row: int) -> pa.Scalar:
        if self._file is None:
            self._file = pq.ParquetFile(  # page by page: a row group may hold gigabytes
                self._path, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False
            )
            self._rows = self._batches(self._file)
        if row < self._first:  # back to the beginning
            self._rows = self._batches(self._file)
            self._first, self._batch = 0, self._batch.slice(0, 0)
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            self._batch = next(self._rows, None)
            if self._batch is None:
                raise IndexError(f"it has no row {row}")
        return self._batch[row - self._first]

    def _batches(self, file: pq.ParquetFile) -> Iterator[pa.Array]:
        for batch in file.iter_batches(batch_size=BATCH, columns=[self._column]):
            column = batch.column(0)
            yield pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


class TarImages:
    """Bytes by running number of a tar's regular files; nothing is extracted."""

    def __init__(self, held: Held) -> None:
        self._path = held.path
        self._file: BinaryIO | None = None
        self._offsets, self._sizes = array("Q"), array("Q")

    def read(self, row: int, max_bytes: int) -> Body:
        """Raises UserError when the tar is damaged."""
        if self._file is None:
            for member in read_members(self._path):
                self._offsets.append(member.offset)
                self._sizes.append(member.size)
            self._file = self._path.open("rb")
        if row >= len(self._sizes):
            raise UserError(f"{self._path} is damaged: it has no member {row}; restore it")
        size = self._sizes[row]
        if size > max_bytes:
            return Body("too_large", detail=f"{size} bytes")
        self._file.seek(self._offsets[row])
        return Body("ok", self._file.read(size))

    def close(self) -> None:
        """Close the tar."""
        if self._file is not None:
            self._file.close()


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
