"""What the sources found -> candidates: queries found in captions, unwanted words out, one row per address."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from stages.search.cells import NO_OPT_OUT
from stages.search.found import PROVIDERS, SCHEMA, SOURCES, TYPES, Found
from stages.search.keywords import Keywords, plain, whole_words
from webdistill.web.normalise import SCHEME, normalise_url, sameness, strip_secrets, web_address

ADDRESS = re.compile(r"https?://[^\s<>\"']+", re.IGNORECASE)
BLOCK = 1 << 16  # rows that are Python values at a time


@dataclass(frozen=True)
class Candidates:
    """`table`: candidates.parquet; `counts`: for metrics.json."""

    table: pa.Table
    counts: dict[str, int]


def collect(found: Iterable[Found], keywords: Keywords, negative: Sequence[str] = ()) -> Candidates:
    """Candidates in the order found, the first of each address.

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


class _Rows:
    """The candidates so far, as columns; whatever a later row says of an earlier one is put in at the end."""

    def __init__(self) -> None:
        self.seen = 0
        self._duplicates = self._empty = 0
        self._place: dict[str, int] = {}
        self._length = 0
        self._block: list[Found] = []
        self._blocks: list[pa.RecordBatch] = []
        self._marks: dict[int, str] = {}  # row -> opt-out
        self._unwanted: set[int] = set()

    def add(self, address: str, one: Found, unwanted: bool) -> None:
        if one.source == "http" and not one.url:
            self._empty += 1
            return
        place = self._place.setdefault(address, self._length) if address else self._length
        if one.opt_out:
            self._marks.setdefault(place, one.opt_out)
        if unwanted:
            self._unwanted.add(place)
        if place < self._length:
            self._duplicates += 1
            return
        self._length += 1
        self._block.append(one)
        if len(self._block) == BLOCK:
            self._flush()

    def finish(self) -> Candidates:
        self._flush()
        table = pa.Table.from_batches(self._blocks, SCHEMA)
        if self._marks:
            marks = table.column("opt_out").to_pylist()
            for place, mark in self._marks.items():
                marks[place] = mark
            at = SCHEMA.get_field_index("opt_out")
            table = table.set_column(at, SCHEMA.field(at), _strings(marks))
        dropped = self._unwanted - self._marks.keys()
        if dropped:
            table = table.filter(pa.array([n not in dropped for n in range(self._length)]))
        counts = {
            "rows": self.seen,
            "rows_without_url": self._empty,
            "duplicates": self._duplicates,
            "negative": len(dropped),
        }
        return Candidates(table, {**counts, **_tally(table)})

    def _flush(self) -> None:
        if self._block:
            columns = zip(*self._block, strict=True)
            arrays = [
                pa.array(values, field.type) if field.name in TYPES else _strings(values)
                for field, values in zip(SCHEMA, columns, strict=True)
            ]
            self._blocks.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
            self._block = []


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
