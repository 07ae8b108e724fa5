"""Lists of images: CSV and TSV with a header or without, Parquet with images or without, columns of any name."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from stages.search.columns import ambiguous, assign, known, matching, text
from stages.search.features import class_name, class_names, query_column
from stages.search.found import Found
from webdistill.core.errors import UserError
from webdistill.web.normalise import SCHEME, normalise_url

ENDINGS = (".csv", ".tsv", ".parquet")
ROWS = 1 << 13  # rows of addresses in memory at a time,
PICTURES = 1 << 2  # or of images
BUFFER = 1 << 20  # bytes of a Parquet list read ahead
BLOCK = 1 << 22  # bytes of a text list read at a time: the longest row it may have
WEB = re.compile(r"\s*https?://", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """A text list's columns; without a header they are called 1, 2, 3, and so on."""

    names: list[str]
    header: bool
    first: list[str]  # the cells of the first row


def image_column(path: Path, columns: Mapping[str, str]) -> str:
    """The Parquet list's column with image bytes, "" if it has none. Raises UserError, also when it is unreadable."""
    if path.suffix.lower() != ".parquet":
        return ""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
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
    path: Path, name: str, folder: str, columns: Mapping[str, str], image: str
) -> Iterator[Found]:
    """The rows of the list at `path`, which candidates call `name`; local paths in it start at `folder`.

    `columns`: our column -> the list's, where ours are not found by their names; `image`: what `image_column` said.
    Raises UserError when the list is unreadable, has neither addresses nor images, or columns of unclear meaning.
    """
    suffix = path.suffix.lower()
    try:
        batches = (
            _parquet(path, columns, image) if suffix == ".parquet" else _csv(path, suffix, columns)
        )
        row = 0
        for texts, embedded in batches:
            fields = list(texts)
            for holds, *values in zip(embedded, *texts.values(), strict=True):
                yield _found(dict(zip(fields, values, strict=True)), holds, name, folder, row)
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _found(texts: dict[str, str], holds: bool, name: str, folder: str, row: int) -> Found:
    url = texts.pop("url", "")
    if holds:
        return Found(url, "embedded", name, row, "list", **texts)
    if not url or SCHEME.match(url):
        return Found(url, "http", "", row, "list", **texts)
    return Found(normalise_url(url), "file", folder, row, "list", **texts)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"search.local: cannot read {path}: {reason}")


def _need(path: Path, present: Sequence[str], hint: str = "") -> UserError:
    listed = f"it has {', '.join(present)}" + hint
    return UserError(
        f"{path} has no column 'url'; {listed}; name the one with the addresses, such as "
        f"`columns: {{url: {present[0] if present else 'URL'}}}`, under search in params.yaml"
    )


_Batches = Iterator[tuple[dict[str, list[str]], list[bool]]]


def _csv(path: Path, suffix: str, columns: Mapping[str, str]) -> _Batches:
    parse = pacsv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
    layout = _layout(path, parse.delimiter)
    chosen = _text_columns(path, layout, columns)
    named = chosen
    if not layout.header:  # as Google's lists: a quote is a quote
        named = {ours: f"f{int(theirs) - 1}" for ours, theirs in chosen.items()}
        parse.quote_char = suffix != ".tsv" and '"'
    wanted = list(dict.fromkeys(named.values()))
    convert = pacsv.ConvertOptions(
        include_columns=wanted,
        column_types={name: pa.string() for name in wanted},
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    read = pacsv.ReadOptions(block_size=BLOCK, autogenerate_column_names=not layout.header)
    with pacsv.open_csv(path, read, parse, convert) as reader:
        for batch in reader:
            yield _texts(batch, named, {}), [False] * batch.num_rows


def _layout(path: Path, delimiter: str) -> _Layout:
    """A first row with a web address in it is no header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file, delimiter=delimiter), [])
    if not first:
        raise UserError(f"search.local: cannot read {path}: its first line is empty")
    header = not any(map(WEB.match, first))
    names = first if header else [str(n + 1) for n in range(len(first))]
    return _Layout(names, header, first)


def _text_columns(path: Path, layout: _Layout, columns: Mapping[str, str]) -> dict[str, str]:
    """Our text column -> the list's."""
    present = layout.names
    chosen = assign(path, present, {k: v for k, v in columns.items() if k != "image"})
    if layout.header:
        if "url" not in chosen and (images := matching("image", present)):
            chosen["url"] = images[0]  # in a text list it can only be a path
        if "url" not in chosen:
            raise _need(path, present)
        return chosen
    shown = [f"{n} ({cell.strip()[:40]!r})" for n, cell in zip(present, layout.first, strict=True)]
    addresses = [n for n, cell in zip(present, layout.first, strict=True) if WEB.match(cell)]
    if "url" not in chosen:
        if len(addresses) > 1:
            raise UserError(
                f"{path} has no header and web addresses in several columns: {', '.join(shown)}; say which to take, "
                f'such as `columns: {{url: "{addresses[0]}"}}`, under search in params.yaml'
            )
        chosen["url"] = addresses[0]
    rest = [n for n in present if n not in chosen.values()]
    if len(present) == 2 and rest and "caption" not in chosen:
        chosen["caption"] = rest[0]
    return chosen


def _parquet(path: Path, columns: Mapping[str, str], image: str) -> _Batches:
    with pq.ParquetFile(  # page by page: a row group of images may hold gigabytes
        path, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False
    ) as file:
        present = file.schema_arrow.names
        chosen = assign(path, present, columns)
        if chosen.get("url") == image:
            del chosen["url"]
        if not image and "url" not in chosen:
            raise _no_images(path, file.schema_arrow)
        classes = class_names(file.schema_arrow)
        chosen |= query_column(classes, chosen)
        wanted = list(dict.fromkeys([*chosen.values(), *([image] if image else [])]))
        size = PICTURES if image else ROWS
        for batch in file.iter_batches(batch_size=size, columns=wanted):
            holds = _valid(batch.column(image)) if image else [False] * batch.num_rows
            yield _texts(batch, chosen, classes), holds


def _no_images(path: Path, schema: pa.Schema) -> UserError:
    for name in matching("image", schema.names):
        return UserError(
            f"{path}: the image column must hold bytes or a struct with a field 'bytes', found "
            f"{schema.field(name).type}; name the right one as search.columns.image"
        )
    return _need(path, schema.names)


def _texts(
    batch: pa.RecordBatch, chosen: Mapping[str, str], classes: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    return {
        ours: [
            known(ours, text(class_name(value, classes.get(theirs))))
            for value in batch.column(theirs).to_pylist()
        ]
        for ours, theirs in chosen.items()
    }


def _holds_bytes(kind: pa.DataType) -> bool:
    """Bytes, Hugging Face's struct {bytes, path}, or nothing at all."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return any(
        check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    )


def _valid(column: pa.Array) -> list[bool]:
    """Which rows hold any; no bytes at all are bytes too: an empty file."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")  # not .field(): that forgets which are null
    flags: list[bool] = column.is_valid().to_pylist()
    return flags
