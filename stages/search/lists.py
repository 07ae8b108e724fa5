"""Lists of images: text with a header or without, JSON, Parquet with images or without, columns of any name."""

from __future__ import annotations

import csv
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.search.cells import glance
from stages.search.columns import Peek, ambiguous, assign, matching, no_address, with_addresses
from stages.search.datasets import Source, plain, special
from stages.search.features import class_name, class_names, query_column
from stages.search.found import Found
from stages.search.jsonlines import objects
from stages.search.layout import SEEN, Layout, look, sources
from stages.search.rows import Row, found_in
from stages.search.textlines import PACKED, Lines, Lost, cells, whole_lines
from webdistill.core.errors import UserError

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
ROWS = 1 << 13  # rows of addresses in memory at a time,
PICTURES = 1 << 2  # or of images
BUFFER = 1 << 20  # bytes of a Parquet list read ahead
Rows = Iterator[Row]
JSON_LINES = "JSON must be one object a line, as `jq -c '.[]' a.json > a.jsonl` writes it (RedCaps: '.annotations[]')"


def ending(name: str) -> str:
    """What kind of list a file's name promises, such as ".csv" of a.csv.gz; "" where it promises none.

    What is packed and has no other ending, as yfcc100m_dataset-0.bz2, may be a text. Parts may have numbers, as
    photos.tsv000 of Unsplash.
    """
    path = Path(name.lower())
    if path.suffix not in PACKED:
        last = path.suffix.rstrip("0123456789")
        return last if last in ENDINGS else ""
    last = Path(path.stem).suffix or ".txt"
    return last if last in ENDINGS and last != ".parquet" else ""  # which packs its pages itself


def image_column(path: Path, columns: Mapping[str, str]) -> str:
    """The Parquet list's column with image bytes, "" if it has none. Raises UserError, also when it is unreadable."""
    if ending(path.name) != ".parquet":
        return ""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    for name, count in Counter(schema.names).items():
        if count > 1:  # neither can be asked for by its name
            raise UserError(f"{path} has {count} columns '{name}'; rename all but one")
    named = columns.get("image")
    if named is not None:
        if named in schema.names and not _holds_bytes(schema.field(named).type):
            raise UserError(
                f"{path}: the image column must hold bytes or a struct with a field 'bytes', found "
                f"{schema.field(named).type}; name the right one as search.columns.image"
            )
        return named  # that it exists is checked with the others
    holding = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    found = matching("image", holding)
    if not found and not matching("url", schema.names):
        found = [name for name in holding if not pa.types.is_null(schema.field(name).type)]
    if not found:
        found = [name for name in holding if pa.types.is_struct(schema.field(name).type)]
    if len(found) > 1:
        raise UserError(ambiguous(path, "image", found))
    return found[0] if found else ""


def list_rows(
    path: Path, name: str, folder: str, columns: Mapping[str, str], image: str, lost: Lost
) -> Iterator[Found]:
    """The rows of the list at `path`, which candidates call `name`; local paths in it start at `folder`.

    `columns`: our column -> the list's, where ours are not found by their names; `image`: what `image_column` said;
    `lost`: counts the rows that cannot be read. Raises UserError when that is all of them, when the list has neither
    addresses nor images, or columns of unclear meaning.
    """
    lost.count, lost.lines, lost.western = 0, [], 0  # a list may be read again
    row, beside = -1, path.parent
    try:
        for row, (values, holds) in enumerate(_rows(path, columns, image, lost)):
            yield from found_in(values, holds, name, folder, row, beside)
    except (
        pa.ArrowException, OSError, UnicodeError, csv.Error, EOFError, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        raise _unreadable(path, error) from None
    if lost.count and row < 0:
        hint = f"; {JSON_LINES}" if ending(name) in (".jsonl", ".ndjson") else ""
        raise UserError(
            f"search.local: cannot read {path}: not one row is as its first ({lost.where()}){hint}"
        )


def _rows(path: Path, columns: Mapping[str, str], image: str, lost: Lost) -> Rows:
    kind = ending(path.name)
    if kind == ".parquet":
        return _parquet(path, columns, image)
    if kind in (".jsonl", ".ndjson"):
        return _json(path, columns, lost)
    return _text(path, kind, columns, lost)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"search.local: cannot read {path}: {reason}")


def _text(path: Path, kind: str, columns: Mapping[str, str], lost: Lost) -> Rows:
    layout = look(path, kind, columns.values())
    chosen = sources(path, layout, columns)
    with Lines(path, layout.begin) as lines:
        rows = cells(lines, layout.form, lost) if layout.form else whole_lines(lines, lost)
        if layout.header:
            next(rows)
        where = {
            ours: [
                (one.make, [layout.names.index(name) for name in one.columns]) for one in several
            ]
            for ours, several in chosen.items()
        }
        for row in rows:
            if layout.header and row[0].strip() == layout.names[0] and _is_header(row, layout):
                continue  # lists that were joined
            yield (
                {
                    ours: [make([row[at] for at in places]) for make, places in several]
                    for ours, several in where.items()
                },
                False,
            )
        lost.western = lines.western


def _is_header(row: Sequence[str], layout: Layout) -> bool:
    return list(map(str.strip, row)) == list(layout.names)


def _json(path: Path, columns: Mapping[str, str], lost: Lost) -> Rows:
    with Lines(path) as lines:
        first = list(islice(objects(lines, Lost()), SEEN))
    present = list(dict.fromkeys(key for row in first for key in row))

    def peek(name: str) -> list[str]:
        return [glance(row.get(name)) for row in first]

    chosen = _chosen(path, present, {k: v for k, v in columns.items() if k != "image"}, peek)
    if "url" not in chosen and first:
        if inner := next(
            (name for name in present if name.isidentifier() and _are_rows(first[0].get(name))), ""
        ):
            raise UserError(
                f"{path} has its rows within '{inner}'; write them with one a line, as by "
                f"`jq -c '.{inner}[]' {path.name} > rows.jsonl`"
            )
        raise no_address(path, present, peek)
    with Lines(path) as lines:
        for row in objects(lines, lost):
            yield _values(chosen, row), False
        lost.western = lines.western


def _are_rows(value: object) -> bool:
    """Whether a field is a list of its own, as `annotations` of RedCaps."""
    return isinstance(value, list) and all(
        isinstance(one, dict) and matching("url", list(one)) for one in value or [None]
    )


def _parquet(path: Path, columns: Mapping[str, str], image: str) -> Rows:
    with pq.ParquetFile(  # page by page: a row group of images may hold gigabytes
        path, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False
    ) as file:
        schema = file.schema_arrow
        peek = partial(_first_cells, file)
        chosen = _chosen(path, schema.names, columns, peek)
        if image and chosen.get("url") == [plain(image)]:
            del chosen["url"]
        if not image and "url" not in chosen:
            raise _no_images(path, schema, peek)
        classes = class_names(schema)
        query = query_column(classes, chosen)
        chosen |= {ours: [plain(theirs)] for ours, theirs in query.items()}
        used = [name for several in chosen.values() for one in several for name in one.columns]
        wanted = list(dict.fromkeys([*used, *([image] if image else [])]))
        size = PICTURES if image else ROWS
        for batch in file.iter_batches(batch_size=size, columns=wanted):
            holds = _valid(batch.column(image)) if image else [False] * batch.num_rows
            cells_of = {name: _cells(batch.column(name), classes.get(name)) for name in used}
            for at, held in enumerate(holds):
                yield _values(chosen, {name: cells_of[name][at] for name in used}), held


def _chosen(
    path: Path, present: Sequence[str], columns: Mapping[str, str], peek: Peek
) -> dict[str, list[Source]]:
    """Our column -> where its values come from, best first."""
    chosen = assign(path, present, columns, peek)
    if "url" not in chosen and (images := matching("image", with_addresses(present, peek))):
        chosen["url"] = images[:1]
    made = {ours: list(map(plain, theirs)) for ours, theirs in chosen.items()}
    return made | {k: [one] for k, one in special(present).items() if k not in columns}


def _values(chosen: Mapping[str, Sequence[Source]], row: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {
        ours: [one.make([row.get(name) for name in one.columns]) for one in several]
        for ours, several in chosen.items()
    }


def _first_cells(file: pq.ParquetFile, name: str) -> list[str]:
    if not _holds_text(file.schema_arrow.field(name).type):
        return []
    batch = next(file.iter_batches(batch_size=SEEN, columns=[name]), None)
    return list(map(glance, _cells(batch.column(0), None))) if batch is not None else []


def _cells(column: pa.Array, names: list[str] | None) -> list[Any]:
    try:
        values = column.to_pylist()
    except OverflowError:  # a date that Python's calendar does not have
        values = column.cast(pa.string()).to_pylist()
    except UnicodeDecodeError:  # in one cell, which then says what can be read of it
        values = column.cast(pa.binary()).to_pylist()
    return [class_name(value, names) for value in values] if names else list(values)


def _no_images(path: Path, schema: pa.Schema, peek: Peek) -> UserError:
    for name in matching("image", schema.names):
        return UserError(
            f"{path}: the image column must hold bytes or a struct with a field 'bytes', found "
            f"{schema.field(name).type}; name the right one as search.columns.image"
        )
    return no_address(path, schema.names, peek)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Bytes, Hugging Face's struct {bytes, path}, or nothing at all."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return any(
        check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    )


def _holds_text(kind: pa.DataType) -> bool:
    """Texts, also in lists and structs; nothing with bytes, which may be large."""
    if pa.types.is_struct(kind):
        inner = [field.type for field in kind]
        return any(map(_holds_text, inner)) and not any(map(_holds_bytes, inner))
    around = (
        pa.types.is_dictionary, pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
    )  # fmt: skip
    if any(check(kind) for check in around):
        return _holds_text(kind.value_type)
    checks = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    return any(check(kind) for check in checks)


def _valid(column: pa.Array) -> list[bool]:
    """Which rows hold any; no bytes at all are bytes too: an empty file."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")  # not .field(): that forgets which are null
    flags: list[bool] = column.is_valid().to_pylist()
    return flags
