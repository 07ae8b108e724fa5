"""What a user names an image by: its id or the start of it, the sha256 of the original file, or an address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from webdistill.core.errors import UserError
from webdistill.web.normalise import normalise_url

ID = 32  # hex digits of an id
SHA256 = 64
SHORTEST = 4  # digits of a prefix
HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Named:
    """`value` is lower-case hex, or an address as candidates.parquet spells it. A prefix is shorter than an id."""

    kind: Literal["id", "sha256", "url"]
    value: str
    text: str  # as the user wrote it


def named(text: str) -> Named:
    """`4c1a`, `id:<hex>`, `<64 hex digits>`, `sha256:<hex>`, or an address (a path for local files).

    Raises UserError for nothing, a prefix that is too short, or a wrong number of digits.
    """
    word = text.strip()
    kind, colon, rest = word.partition(":")
    kind = kind.lower()
    digits = (rest if colon and kind in ("id", "sha256") else word).strip().lower()
    if not word:
        raise UserError("name an image: its id or the start of it, a sha256, or an address")
    if not HEX.fullmatch(digits):
        if colon and kind in ("id", "sha256"):
            raise UserError(f"{word!r}: expected hex digits after '{kind}:'")
        return Named("url", normalise_url(word), word)
    if len(digits) == SHA256 and kind != "id":
        return Named("sha256", digits, word)
    if kind == "sha256" or len(digits) > ID:
        raise UserError(
            f"{word!r} has {len(digits)} hex digits; an id has {ID}, the sha256 of a file {SHA256}"
        )
    if len(digits) < SHORTEST:
        raise UserError(f"{word!r} is too short; give at least {SHORTEST} digits of an id")
    return Named("id", digits, word)
