"""Whose absence is to be proven, in the words and with the meaning of takedown.txt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from webdistill.commands.provenance.rows import Hit, among
from webdistill.core.errors import UserError
from webdistill.takedown import FIX, PLACES, Takedown, parse_entry, unquoted
from webdistill.web.normalise import normalise_url

SCHEMES = ("", "http://", "https://")
KEYS = ("id", "sha256", *PLACES)


@dataclass(frozen=True)
class Target:
    """`hit`: rows with the columns KEYS that are meant; the rest: what the words themselves say."""

    hit: Hit
    ids: frozenset[str] = frozenset()
    sha256s: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()  # every spelling


def target(text: str) -> Target:
    """One entry of takedown.txt. Raises UserError for what is none; the start of an id is not enough here."""
    word = unquoted(text)
    try:
        kind, values = parse_entry(word)
    except ValueError as error:
        raise UserError(f"{word!r}: {error}; {FIX}") from None
    empty: dict[str, dict[str, int]] = {
        name: {} for name in ("id", "sha256", "address", "host", "below")
    }
    takedown = Takedown(**{**empty, kind: dict.fromkeys(values, 1)})
    if kind == "id":
        return Target(_hit("id", values), ids=frozenset(values))
    if kind == "sha256":
        return Target(_hit("sha256", values), sha256s=frozenset(values))
    listed = normalise_url(word).partition("://")[2]
    spellings = {f"{scheme}{one}" for scheme in SCHEMES for one in (*values, listed) if one}
    spellings = spellings if kind == "address" else set()
    return Target(_addressed(takedown), urls=frozenset(spellings))


def _hit(column: str, values: Collection[str]) -> Hit:
    known = among(values)
    return lambda table: known(table.column(column))


def _addressed(takedown: Takedown) -> Hit:
    """An address or host means the file's address and that of the page it was found on."""

    def hit(table: pa.Table) -> pa.ChunkedArray:
        places = zip(*(table.column(name).to_pylist() for name in KEYS[2:]), strict=True)
        mask = [bool(takedown.by_candidate(*place)) for place in places]
        return pa.chunked_array([pa.array(mask, pa.bool_())])

    return hit
