"""Rows of a user's list -> candidates: columns renamed, URLs normalised, doubles removed, queries found in captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from webdistill.core.errors import UserError

TEXTS = ("url", "query", "caption", "licence", "licence_url", "creator", "landing_page", "opt_out")
SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        *((name, pa.string()) for name in TEXTS[1:]),
    ]
)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
USERINFO = (
    re.compile(  # up to the last @ before the path, also where the rest of the URL is nonsense
        r"^([\x00-\x20]*(?:https?:|(?:[a-z][a-z0-9+.-]+:)?[/\\]{2})[/\\]*)[^/?#]*@", re.IGNORECASE
    )
)
NO_OPT_OUT = frozenset({"", "0", "false", "no", "none", "null", "nan"})
DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Found:
    """`table`: candidates.parquet; `image_column`: the list's column with image bytes ("" if none); `counts`."""

    table: pa.Table
    image_column: str
    counts: dict[str, int]


@dataclass(frozen=True)
class _List:
    """A user's list under our names: one text per row ("" = unknown) and whether the row holds image bytes."""

    texts: dict[str, list[str]]
    embedded: list[bool]
    image_column: str


def find_candidates(path: Path, columns: Mapping[str, str], classes: Sequence[str]) -> Found:
    """Read the list and return its candidates in its order, the first of each URL, with an opt-out if any had one.

    `columns`: our column name -> the list's, where they differ. Raises UserError when the list is unreadable, lacks
    a column named in `columns`, has neither URLs nor images, or is empty.
    """
    content = _read(path, columns)
    keyword = Keywords(classes)
    out: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    counts = {"rows": len(content.embedded), "duplicate_urls": 0, "rows_without_url": 0}
    seen: set[str] = set()
    content.texts["url"] = [normalise_url(text) for text in content.texts["url"]]
    refused: dict[str, str] = {}
    for url, mark in zip(content.texts["url"], content.texts["opt_out"], strict=True):
        if url and mark.lower() not in NO_OPT_OUT:
            refused.setdefault(url, mark)
    for row, embedded, *values in zip(count(), content.embedded, *content.texts.values()):
        texts = dict(zip(content.texts, values, strict=True))
        url, source = texts["url"], "embedded"
        if not embedded:
            if not url:
                counts["rows_without_url"] += 1
                continue
            source = "http" if SCHEME.match(url) else "file"
        if url in seen:
            counts["duplicate_urls"] += 1
            continue
        if url:
            seen.add(url)
        texts["query"] = texts["query"] or keyword.first_in(texts["caption"])
        if texts["opt_out"].lower() in NO_OPT_OUT:
            texts["opt_out"] = refused.get(url, "")
        for name in ("landing_page", "licence_url"):
            texts[name] = USERINFO.sub(r"\1", texts[name])
        for name, value in {**texts, "source": source, "row": row}.items():
            out[name].append(value)
    if not out["row"]:
        raise UserError(
            f"{path} holds no candidate: no row has a URL or an image; check search.list"
        )
    return Found(pa.table(out, schema=SCHEMA), content.image_column, {**counts, **_tally(out)})


def normalise_url(text: str) -> str:
    """One spelling per address: lower-case scheme and host, no user info, default port or fragment.

    What is no well-formed http(s) URL comes back without user info, for fetch to refuse; a local path stays a path.
    """
    text = USERINFO.sub(r"\1", text.strip())
    if UNSAFE.search(text) or not SCHEME.match(text):
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return text
    if parts.scheme not in DEFAULT_PORT or not parts.hostname:
        return text
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != DEFAULT_PORT[parts.scheme]:
        host = f"{host}:{port}"
    return urlunsplit(SplitResult(parts.scheme, host, parts.path or "/", parts.query, ""))


class Keywords:
    """Finds class names in captions, as whole words, in any case; `_` and `-` in a name stand for a space too."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = {self._plain(name): name for name in classes}
        longest_first = sorted(self._names, key=len, reverse=True)
        choices = "|".join(re.escape(name).replace(r"\ ", r"[\s_-]+") for name in longest_first)
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)", re.IGNORECASE)

    def first_in(self, caption: str) -> str:
        """The class named first in the caption (the longest name where two begin together), or ""."""
        match = self._pattern.search(caption)
        return self._names[self._plain(match.group())] if match else ""

    @staticmethod
    def _plain(name: str) -> str:
        return re.sub(r"[\s_-]+", " ", name.lower()).strip()


def _tally(out: Mapping[str, Sequence[object]]) -> dict[str, int]:
    sources = {f"source_{name}": out["source"].count(name) for name in ("embedded", "file", "http")}
    marks = {
        "with_query": sum(map(bool, out["query"])),
        "opted_out": sum(map(bool, out["opt_out"])),
    }
    return {"candidates": len(out["row"]), **sources, **marks}


def _read(path: Path, columns: Mapping[str, str]) -> _List:
    """The list's columns under our names. Raises UserError."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise UserError(f"search.list: expected a .csv, .tsv or .parquet file, found {path}")
    try:
        table, embedded = (
            _parquet(path, columns) if suffix == ".parquet" else (_csv(path, suffix, columns), None)
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"search.list: cannot read {path}: {str(error).splitlines()[0]}") from None
    texts = {}
    for ours in TEXTS:
        theirs = columns.get(ours, ours)
        texts[ours] = (
            _texts(table.column(theirs)) if theirs in table.column_names else [""] * table.num_rows
        )
    if embedded is None:
        return _List(texts, [False] * table.num_rows, "")
    return _List(texts, embedded, columns.get("image", "image"))


def _check_columns(
    path: Path, present: Sequence[str], columns: Mapping[str, str], known: Sequence[str]
) -> None:
    for ours, theirs in columns.items():
        if theirs not in present:
            raise UserError(
                f"search.columns.{ours}: {path} has no column '{theirs}'; it has {', '.join(present)}"
            )
    if not any(columns.get(ours, ours) in present for ours in known):
        raise UserError(
            f"{path} has no column '{known[0]}'; it has {', '.join(present)}; name the one with the addresses, "
            "such as `columns: {url: "
            + (present[0] if present else "URL")
            + "}`, under search in params.yaml"
        )


def _csv(path: Path, suffix: str, columns: Mapping[str, str]) -> pa.Table:
    parse = pacsv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
    with pacsv.open_csv(path, parse_options=parse) as reader:
        present = reader.schema.names
    _check_columns(path, present, columns, ("url",))
    wanted = [
        name for name in dict.fromkeys(columns.get(ours, ours) for ours in TEXTS) if name in present
    ]
    convert = pacsv.ConvertOptions(
        include_columns=wanted,
        column_types={name: pa.string() for name in wanted},
        strings_can_be_null=False,
        quoted_strings_can_be_null=False,
    )
    return pacsv.read_csv(path, parse_options=parse, convert_options=convert)


def _parquet(path: Path, columns: Mapping[str, str]) -> tuple[pa.Table, list[bool] | None]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        present = file.schema_arrow.names
        _check_columns(path, present, columns, ("url", "image"))
        wanted = [
            name
            for name in dict.fromkeys(columns.get(ours, ours) for ours in TEXTS)
            if name in present
        ]
        table = file.read(columns=wanted) if wanted else None
        image = columns.get("image", "image")
        embedded = None
        if image in present:
            batches = file.iter_batches(batch_size=1024, columns=[image])
            embedded = [flag for batch in batches for flag in _holds_bytes(path, batch.column(0))]
    if table is None:  # nothing but images
        table = pa.table({"": pa.nulls(len(embedded or []))})
    return table, embedded


def _holds_bytes(path: Path, column: pa.Array) -> list[bool]:
    """For a column of bytes, or of Hugging Face's struct {bytes, path}: which rows hold any."""
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(
            column, "bytes"
        )  # not .field(): that forgets which structs are null
    if pa.types.is_null(column.type):
        return [False] * len(column)
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise UserError(
            f"{path}: the image column must hold bytes or a struct with a field 'bytes', found {column.type}; "
            "name the right one as search.columns.image"
        )
    flags: list[bool] = (
        column.is_valid().to_pylist()
    )  # no bytes at all are bytes too: an empty file
    return flags


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Any column as text: null -> "", lists joined by a comma."""
    values = column.to_pylist()
    return [_text(value) for value in values]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_text, value)))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip()
