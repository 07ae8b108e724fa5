"""Rows found by their id and kept as columns: of a million images, arrays and no objects."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from webdistill.core.errors import UserError

Names = NDArray[np.bytes_]  # ids, of one width
Places = NDArray[np.int64]
BATCH = 16_384  # rows of a file in memory at a time


def names(column: pa.Array | pa.ChunkedArray) -> Names:
    """Ids as bytes, without an object for each."""
    width = max(pc.max(pc.binary_length(column)).as_py() or 0, 1)
    found = np.zeros(len(column), f"S{width}")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    at = 0
    for chunk in chunks:
        for start in range(0, len(chunk), BATCH):  # a whole column would be copied four times
            part = chunk.slice(start, BATCH).cast(pa.string())
            fixed = (
                pc.ascii_rpad(part, width, padding="\0").cast(pa.binary()).cast(pa.binary(width))
            )
            data = np.frombuffer(fixed.buffers()[1], np.uint8)[: len(part) * width]
            found[at : at + len(part)] = data.view(f"S{width}")
            at += len(part)
    return found


def words(column: pa.Array | pa.ChunkedArray) -> NDArray[np.object_]:
    """Texts of which many are equal: 8 bytes each, for equal ones are one object."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = column.dictionary_encode() if not pa.types.is_dictionary(column.type) else column
    known = np.array([*coded.dictionary.to_pylist(), None], object)
    found: NDArray[np.object_] = known[pc.fill_null(coded.indices, len(known) - 1).to_numpy()]
    return found


def text(name: np.bytes_) -> str:
    """An id as it is shown."""
    return bytes(name).decode()


class Columns:
    """`ids` [N], all different, and columns [N] by name."""

    def __init__(self, ids: Names, **columns: NDArray[Any]) -> None:
        self.ids = ids
        self._columns = columns

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._columns[column]

    def __contains__(self, name: str) -> bool:
        return self.place(name) >= 0

    def place(self, name: str) -> int:
        """Of an id; -1 where it is absent."""
        return int(self.places(np.array([name.encode()]))[0])

    def places(self, wanted: Names) -> Places:
        """Of each id, -1 where it is absent."""
        if wanted is self.ids or (
            len(wanted) == len(self.ids) and np.array_equal(wanted, self.ids)
        ):
            return np.arange(len(self.ids))
        if not len(self.ids):
            return np.full(len(wanted), -1)
        found = np.empty(len(wanted), np.int64)
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            fits = part.astype(self.ids.dtype)  # cut, where it is longer: then it is none of these
            rank = np.searchsorted(self.ids, fits, sorter=self._order)
            near = self._order[np.minimum(rank, len(self.ids) - 1)]
            same = (self.ids[near] == fits) & (fits == part)
            found[start : start + BATCH] = np.where(same, near, -1)
        return found

    def of(self, wanted: Names, column: str, missing: Any) -> NDArray[Any]:
        """The column's values for these ids; `missing` where an id is absent."""
        places = self.places(wanted)
        if not len(self.ids):
            return np.full(len(wanted), missing)
        return np.where(places >= 0, self._columns[column][places], missing)

    def has(self, wanted: Names) -> NDArray[np.bool_]:
        """Which of these ids are here."""
        return self.places(wanted) >= 0

    @cached_property
    def _order(self) -> NDArray[np.int32]:
        return np.argsort(self.ids, kind="stable").astype(np.int32)


def first(key: NDArray[Any], ids: Names, number: int) -> Places:
    """Places of the `number` smallest keys, ties by id; without sorting all."""
    if number < len(key):
        least = np.partition(key, number)[number]
        near = np.flatnonzero(key <= least)
    else:
        near = np.arange(len(key))
    return near[np.lexsort((ids[near], key[near]))][:number]


def batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A Parquet file a few rows at a time. Raises UserError naming the file or missing column."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            present = file.schema_arrow.names
            if missing := [name for name in columns if name not in present]:
                raise UserError(f"{path} has no column '{missing[0]}'; it has {', '.join(present)}")
            yield from file.iter_batches(BATCH, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or no Parquet file: {reason}; rebuild it") from None
