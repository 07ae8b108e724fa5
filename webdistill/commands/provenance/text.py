"""Plain text for a terminal of 80 columns: aligned, wrapped, and inert whatever the web wrote into a caption."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 80
LABEL = 12  # columns of a label
LONGEST = 300  # characters of one value; `--json` has all of it
NARROW = frozenset({"Mn", "Me"})  # marks that stand on the letter before
ACTIVE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # what may drive a terminal or hide
ADDRESS = re.compile(r"https?://\S*")


def inert(value: object) -> str:
    r"""Every character that is no plain sign or blank as \xNN, \uNNNN or \UNNNNNNNN; a backslash doubled.

    Control and format characters (escape sequences, turned writing direction, zero width), line separators,
    private and unassigned code points.
    """
    return "".join(_inert(letter) for letter in str(value))


def _inert(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if unicodedata.category(letter) not in ACTIVE:
        return letter
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns(text: str) -> int:
    """Columns that a terminal gives to a text without control characters."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.category(letter) in NARROW:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shortened(text: str) -> str:
    """At most LONGEST characters, saying how many there were."""
    return (
        text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters in all)"
    )


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at blanks; an address stays whole, so that it can be copied."""
    lines, line = [""], 0
    for word in text.split(" "):
        for piece in [word] if ADDRESS.match(word) else _pieces(word, width):
            size = columns(piece)
            if lines[-1] and line + 1 + size > width:
                lines.append("")
                line = 0
            blank = " " if lines[-1] else ""
            lines[-1] += blank + piece
            line += len(blank) + size
    return lines


def _pieces(word: str, width: int) -> list[str]:
    pieces, size = [""], 0
    for letter in word:
        size += _columns(letter)
        if size > width:
            pieces.append("")
            size = _columns(letter)
        pieces[-1] += letter
    return pieces


def labelled(label: str, value: object) -> list[str]:
    """`label       the value, wrapped under itself`. The value comes from anywhere and is made inert."""
    text = shortened(inert(value))
    first, *more = wrapped(text, WIDTH - LABEL)
    return [f"{label:<{LABEL}}{first}".rstrip(), *(f"{'':<{LABEL}}{line}" for line in more)]


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], right: frozenset[int] = frozenset()
) -> list[str]:
    """Columns two blanks apart, as wide as their widest cell; those in `right` are set to the right."""
    cells = [[inert(cell) for cell in row] for row in ([head] if head else [])]
    cells += [[inert(cell) for cell in row] for row in rows]
    widths = [max(columns(cell) for cell in column) for column in zip(*cells, strict=True)]
    return ["  ".join(_padded(row, widths, right)).rstrip() for row in cells]


def _padded(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> list[str]:
    out = []
    for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
        blank = " " * (width - columns(cell))
        out.append(blank + cell if at in right else cell + blank)
    return out


def as_json(value: Any) -> str:
    """One JSON document in ASCII, without a character that drives a terminal."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: their names instead."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
