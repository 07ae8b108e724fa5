"""Traces of images in any file: Parquet columns are searched by value, every other file by its bytes."""

from __future__ import annotations

import base64
import hashlib
import html
import mmap
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from webdistill.commands.provenance.rows import among, filled_groups, opened
from webdistill.core.errors import UserError

DIGITS = 32  # of an id; a sha256 is found by its first ones
SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")  # the pool calls an image's file `<id>.webp`
IS_DIGIT = bytes(ord("1") if letter in b"0123456789abcdef" else ord("0") for letter in range(256))
RUN = b"1" * DIGITS
ADDRESS = re.compile(rb"https?:(?://|\\/\\/)[^\s\"'<>\x00]{1,8000}")
PICTURE = re.compile(rb"base64,([A-Za-z0-9+/]+=*)")
ENCODED = "pictures-"  # a training's folder of encoded pictures begins so
CHUNK = 8 << 20  # bytes looked at together


@dataclass(frozen=True)
class Needles:
    """What gives images away: their ids, sha256s of originals, addresses, and sha256s of their stored bytes."""

    ids: frozenset[str] = frozenset()
    sha256s: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()


class Search:
    """Looks for the same needles in one file after the other."""

    def __init__(self, needles: Needles) -> None:
        names = {f"{name}{suffix}" for name in needles.ids for suffix in SUFFIXES}
        values = needles.ids | needles.sha256s | needles.urls | names
        self._among = among(values)
        self._digits = {name[:DIGITS].encode() for name in needles.ids | needles.sha256s}
        self._urls = needles.urls
        self._stored = needles.stored

    def rows(self, path: Path, but: Collection[str] = ()) -> NDArray[np.int64]:
        """Rows of a Parquet file with a needle as the value of a text column, not counting the columns `but`."""
        found, start = [np.empty(0, np.int64)], 0
        with opened(path) as file:
            leaves = [leaf for leaf in _text_leaves(file) if leaf not in but]
            for group in filled_groups(file):
                table = file.read_row_group(group, columns=leaves)
                length = file.metadata.row_group(group).num_rows
                hit = np.zeros(length, bool)
                for column in table.columns:
                    hit[_rows_with(column, self._among)] = True
                found.append(start + np.flatnonzero(hit))
                start += length
        return np.concatenate(found)

    def header(self, path: Path) -> int:
        """Traces in the metadata of a Parquet file."""
        with opened(path) as file:
            metadata = file.schema_arrow.metadata or {}
        return sum(self.count(key) + self.count(value) for key, value in metadata.items())

    def places(self, path: Path) -> int:
        """Traces in the bytes of a file, its name included."""
        named = self.count(path.name.encode("utf-8", "surrogateescape"))
        if not path.stat().st_size:
            return named
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return named + self.count(data) + self._encoded(path, data)

    def _encoded(self, path: Path, data: mmap.mmap) -> int:
        """Pictures as the pool stores them, in the file that a training keeps them in until it ends."""
        if not self._stored or not path.parent.name.startswith(ENCODED):
            return 0
        from webdistill.images.encoded import INDEX, PICTURES  # torch takes a second

        index = path.with_name(INDEX)
        if path.name != PICTURES or not index.is_file():
            return 0
        places = np.fromfile(index, np.int64)
        if len(places) % 3:
            raise UserError(f"{index} is damaged; remove its folder")
        begins, lengths, _ = places.reshape(3, -1).tolist()
        pieces = (data[at : at + size] for at, size in zip(begins, lengths, strict=True))
        return sum(hashlib.sha256(piece).hexdigest() in self._stored for piece in pieces)

    def count(self, data: bytes | mmap.mmap) -> int:
        """Ids and sha256s anywhere in runs of hex digits, addresses, and embedded pictures."""
        found = sum(window in self._digits for window in _windows(data))
        if self._urls:
            found += sum(self._is_address(match.group()) for match in ADDRESS.finditer(data))
        if self._stored:
            found += sum(self._is_picture(match.group(1)) for match in PICTURE.finditer(data))
        return found

    def _is_address(self, text: bytes) -> bool:
        """As it stands, as HTML or as JSON writes it, and without the punctuation of a sentence around it."""
        plain = text.decode("utf-8", "surrogateescape").replace("\\/", "/")
        spellings = {plain, html.unescape(plain)}
        spellings |= {spelling.rstrip(".,;:!?)]}\\`*") for spelling in spellings}
        return not self._urls.isdisjoint(spellings)

    def _is_picture(self, text: bytes) -> bool:
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            return False
        return hashlib.sha256(data).hexdigest() in self._stored


def _windows(data: bytes | mmap.mmap) -> Iterator[bytes]:
    """Every DIGITS hex digits in a row. Weights have hardly any, so they are not looked at byte by byte."""
    for start in range(0, len(data), CHUNK):
        part = data[start : start + CHUNK + DIGITS - 1]
        digits = part.translate(IS_DIGIT)
        at = digits.find(RUN)
        while at >= 0:
            yield part[at : at + DIGITS]
            at = digits.find(RUN, at + 1)


def stored_digests(shards: Iterable[Path], ids: Collection[str]) -> Iterator[str]:
    """sha256 of the bytes under which the pool stores these images."""
    known = among(ids)
    for shard in shards:
        with opened(shard) as file:
            for group in filled_groups(file):
                names = file.read_row_group(group, columns=["id"]).column("id")
                at = pc.indices_nonzero(known(names))
                if len(at):
                    images = file.read_row_group(group, columns=["image.bytes"]).column("image")
                    for image in images.take(at).to_pylist():
                        yield hashlib.sha256(image["bytes"]).hexdigest()


def _text_leaves(file: pq.ParquetFile) -> list[str]:
    """Dotted names of the columns that hold text, in structs and lists too."""
    schema = file.schema
    return [
        schema.column(at).path
        for at in range(len(schema))
        if schema.column(at).physical_type == "BYTE_ARRAY"
        and schema.column(at).logical_type.type in ("STRING", "JSON", "ENUM")
    ]


def _rows_with(
    column: pa.ChunkedArray, among: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> NDArray[np.int64]:
    """Rows whose text, or one of whose texts, is among the values."""
    column = column.combine_chunks()
    found = [np.empty(0, np.int64)]
    for texts, rows in _texts(column, np.arange(len(column))):
        hit = among(pa.chunked_array([texts.cast(pa.string())]))
        found.append(rows[pc.fill_null(hit, False).to_numpy()])
    return np.unique(np.concatenate(found))


def _texts(
    column: pa.Array, rows: NDArray[np.int64]
) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
    """Flat arrays of text below a column, with the row that each of their values belongs to."""
    if pa.types.is_struct(column.type):
        for inner in column.flatten():
            yield from _texts(inner, rows)
    elif pa.types.is_nested(column.type):
        parents = rows[pc.list_parent_indices(column).to_numpy()]
        yield from _texts(pc.list_flatten(column), parents)
    elif pa.types.is_dictionary(column.type):
        yield column.dictionary_decode(), rows
    else:
        yield column, rows
