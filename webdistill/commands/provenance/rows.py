"""Rows of large Parquet files: one row group in memory at a time, and whole rows only where something was found."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from webdistill.core.errors import UserError

FEW = 1000
Row = dict[str, Any]
Hit = Callable[[pa.Table], pa.ChunkedArray]  # a table of the key columns -> bool per row


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file with its page checksums verified. Raises UserError naming it, also for what goes wrong later."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path} is damaged or no Parquet file: {reason}; rebuild or check it out again"
        ) from None


def filled_groups(file: pq.ParquetFile) -> list[int]:
    """Row groups with rows. A table without any has one empty group, on which some functions of Arrow crash."""
    groups = range(file.num_row_groups)
    return [group for group in groups if file.metadata.row_group(group).num_rows]


def find(
    path: Path, keys: Sequence[str], hit: Hit, wanted: Sequence[str] | None = None
) -> Iterator[tuple[int, Row]]:
    """(place in the file, row) of every row that `hit` says yes to, with those of `wanted` (all) that the file has.

    A key that the file lacks reads as "": earlier versions of a stage wrote fewer columns.
    """
    with opened(path) as file:
        present = file.schema_arrow.names
        start = 0
        for group in filled_groups(file):
            table = _keys(file, group, keys)
            found = pc.indices_nonzero(pc.fill_null(hit(table), False))
            if len(found):
                columns = [name for name in wanted or present if name in present]
                rows = file.read_row_group(group, columns=columns).take(found).to_pylist()
                yield from zip((start + at for at in found.to_pylist()), rows, strict=True)
            start += table.num_rows


def take(path: Path, places: Collection[int]) -> dict[int, Row]:
    """The rows at these places, as far as the file is that long."""
    ordered = sorted(places)
    found: dict[int, Row] = {}
    with opened(path) as file:
        start = 0
        for group in filled_groups(file):
            length = file.metadata.row_group(group).num_rows
            here = ordered[bisect_left(ordered, start) : bisect_left(ordered, start + length)]
            if here:
                table = file.read_row_group(group)
                rows = table.take([place - start for place in here]).to_pylist()
                found.update(zip(here, rows, strict=True))
            start += length
    return found


def count(path: Path) -> int:
    """Rows of the file."""
    with opened(path) as file:
        return int(file.metadata.num_rows)


def header(path: Path) -> dict[str, str]:
    """What a stage wrote into the file's header."""
    with opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in metadata.items()
    }


def among(values: Collection[str]) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    """Column of text -> bool per row. Arrow hashes the values anew at every call: dear where there are many."""
    if len(values) > FEW:
        known = frozenset(values)
        return lambda column: pa.chunked_array([pa.array([v in known for v in column.to_pylist()])])
    few = pa.array(sorted(values), pa.string())
    return lambda column: pc.is_in(column, value_set=few)


def equal(column: str, values: Collection[str]) -> Hit:
    """Rows whose `column` is one of the values."""
    known = among(values)
    return lambda table: known(table.column(column))


def begins(column: str, start: str) -> Hit:
    """Rows whose `column` begins with the text."""
    return lambda table: pc.starts_with(table.column(column), pattern=start)


def _keys(file: pq.ParquetFile, group: int, keys: Sequence[str]) -> pa.Table:
    length = file.metadata.row_group(group).num_rows
    present = [name for name in keys if name in file.schema_arrow.names]
    table = file.read_row_group(group, columns=present)
    for name in keys:
        if name not in present:
            table = table.append_column(name, pa.array([""] * length, pa.string()))
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
