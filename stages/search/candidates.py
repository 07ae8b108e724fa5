"""What the sources found -> candidates: queries found in captions, unwanted words out, one row per address."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from stages.search.cells import DIGESTS, NO_OPT_OUT
from stages.search.found import PROVIDERS, SCHEMA, SCORES, SOURCES, TYPES, Found
from stages.search.keywords import Keywords, plain, whole_words
from webdistill.web.normalise import SCHEME, normalise_url, sameness, strip_secrets, web_address

ADDRESS = re.compile(r"https?://[^\s<>\"']+", re.IGNORECASE)
FILLED = (  # each alone, or several that are one statement
    ("query",), ("caption",), ("licence", "licence_url"), ("creator",), ("landing_page",), ("origin",), ("opt_out",),
    *((name,) for name in SCORES),
)  # fmt: skip
CREDITED = ("licence", "licence_url", "creator")
BLOCK = 1 << 16  # rows that are Python values at a time


@dataclass(frozen=True)
class Candidates:
    """`table`: candidates.parquet; `counts`: for metrics.json."""

    table: pa.Table
    counts: dict[str, int]


def collect(found: Iterable[Found], keywords: Keywords, negative: Sequence[str] = ()) -> Candidates:
    """Candidates in the order found, the first of each address; what it does not say is filled from later ones.

    An opt-out in any row of an address counts for its candidate; so does an unwanted word in any caption. What is
    opted out is never left out for a word: its row is what keeps copies of it out of the pool later.
    """
    unwanted = whole_words(map(plain, negative))
    rows = _Rows()
    for one in found:
        rows.seen += 1
        tidy = _tidy(one, keywords)
        rows.add(_address(tidy), tidy, bool(unwanted.search(tidy.caption)))
    return rows.finish()


def _tidy(one: Found, keywords: Keywords) -> Found:
    """The row with normalised addresses, the class it was looked for, and an opt-out mark only where it is one."""
    query = keywords.class_of(one.query) or one.query if one.query else ""
    return one._replace(
        url=one.url if one.source == "file" else normalise_url(one.url),
        query=_without_secrets(query) or keywords.first_in(one.caption),
        caption=_without_secrets(one.caption),
        licence=_without_secrets(one.licence),
        licence_url=_without_secrets(strip_secrets(one.licence_url)),
        creator=_without_secrets(one.creator),
        landing_page=_without_secrets(strip_secrets(web_address(one.landing_page))),
        attribution=_without_secrets(one.attribution),
        origin=normalise_url(one.origin) if one.origin else "",
        opt_out="" if one.opt_out.lower() in NO_OPT_OUT else _without_secrets(one.opt_out),
    )


def _without_secrets(text: str) -> str:
    """The text, with what may be secret taken out of addresses in it."""
    return ADDRESS.sub(lambda found: strip_secrets(found[0]), text) if "://" in text else text


def _address(one: Found) -> str:
    """What makes two rows the same image for us: the URL, however spelt, or the path of the file; "" without either."""
    if one.source == "file" or (one.url and not SCHEME.match(one.url)):
        folder = one.file if one.source == "file" else posixpath.dirname(one.file)
        return "file:" + posixpath.normpath(posixpath.join(folder, one.url))
    return sameness(one.url)


def filled(first: Found, later: Found) -> Found:
    """The row with what it does not say from another row of the same image; nothing that it says is changed.

    A licence and its address are one statement, and so are the digests, which are of a file on the web alone. An
    attribution, which names creator and licence, comes from no row that names others.
    """
    groups = list(FILLED)
    if first.source == later.source == "http":
        groups.append(tuple(DIGESTS))
    if all(getattr(first, name) in ("", getattr(later, name)) for name in CREDITED):
        groups.append(("attribution",))
    new: dict[str, Any] = {}
    for names in groups:
        if not any(_says(getattr(first, name)) for name in names):
            new |= {name: value for name in names if _says(value := getattr(later, name))}
    return first._replace(**new) if new else first


def _says(value: str | float | None) -> bool:
    return value is not None and value != ""


class _Rows:
    """The candidates so far, as columns; whatever a later row says of an earlier one is put in at the end."""

    def __init__(self) -> None:
        self.seen = 0
        self._duplicates = self._empty = 0
        self._place: dict[str, int] = {}
        self._length = 0
        self._block: list[Found] = []
        self._blocks: list[pa.RecordBatch] = []
        self._filled: dict[int, Found] = {}  # row -> what it is with what later ones say
        self._opted_out: set[int] = set()
        self._unwanted: set[int] = set()

    def add(self, address: str, one: Found, unwanted: bool) -> None:
        if one.source == "http" and not one.url:
            self._empty += 1
            return
        place = self._place.setdefault(address, self._length) if address else self._length
        if one.opt_out:
            self._opted_out.add(place)
        if unwanted:
            self._unwanted.add(place)
        if place < self._length:
            self._duplicates += 1
            first = self._filled.get(place) or self._row(place)
            if (whole := filled(first, one)) is not first:
                self._filled[place] = whole
            return
        self._length += 1
        self._block.append(one)
        if len(self._block) == BLOCK:
            self._flush()

    def finish(self) -> Candidates:
        self._flush()
        self._fill()
        table = pa.Table.from_batches(self._blocks, SCHEMA)
        dropped = self._unwanted - self._opted_out
        if dropped:
            table = table.filter(pa.array([n not in dropped for n in range(self._length)]))
        counts = {
            "rows": self.seen,
            "rows_without_url": self._empty,
            "duplicates": self._duplicates,
            "negative": len(dropped),
        }
        return Candidates(table, {**counts, **_tally(table)})

    def _row(self, place: int) -> Found:
        block, at = divmod(place, BLOCK)
        if block == len(self._blocks):
            return self._block[at]
        return Found(*(column[at].as_py() for column in self._blocks[block].columns))

    def _fill(self) -> None:
        """Put in what later rows said, a block at a time."""
        for block, places in groupby(sorted(self._filled), lambda place: place // BLOCK):
            columns = [column.to_pylist() for column in self._blocks[block].columns]
            for place in places:
                for values, value in zip(columns, self._filled[place], strict=True):
                    values[place % BLOCK] = value
            self._blocks[block] = _batch(columns)

    def _flush(self) -> None:
        if self._block:
            self._blocks.append(_batch(zip(*self._block, strict=True)))
            self._block = []


def _batch(columns: Iterable[Sequence[Any]]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, field.type) if field.name in TYPES else _strings(values)
        for field, values in zip(SCHEMA, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _strings(values: Sequence[str]) -> pa.Array:
    """JSON may hold halves of characters, which no file can."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        whole = [value.encode("utf-8", "replace").decode() for value in values]
        return pa.array(whole, pa.string())


def _tally(table: pa.Table) -> dict[str, int]:
    sources = Counter(table.column("source").to_pylist())
    providers = Counter(table.column("provider").to_pylist())
    return {
        "candidates": table.num_rows,
        **{f"source_{name}": sources[name] for name in SOURCES},
        **{f"provider_{name}": providers[name] for name in PROVIDERS},
        "with_query": sum(map(bool, table.column("query").to_pylist())),
        "opted_out": sum(map(bool, table.column("opt_out").to_pylist())),
    }
