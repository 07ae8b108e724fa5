"""Tar archives as a list of byte ranges: nothing is extracted, and what a member is called never becomes a path.

A tar that was cut between two members reads as a shorter one, so the end mark (a block of zeros, and nothing but
zeros after it) is required. Only regular files are listed: links, devices, folders and sparse files are stepped over.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from webdistill.core.errors import UserError

BLOCK = 512
REGULAR = b"0\x007"  # type flags of a regular file; 7 is a contiguous one
LONG_NAME, PAX, PAX_FOR_ALL = b"L", b"x", b"g"
MAX_EXTRA = 1 << 20  # bytes of a long name or of extended headers; real ones have some hundred
PIECE = 1 << 20
RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the archive: its name as text, and where its bytes lie."""

    name: str
    offset: int
    size: int


class _DamagedError(ValueError):
    """What is wrong with the archive, without its name."""


def read_members(path: Path) -> Iterator[Member]:
    """The regular files in order. Raises UserError naming the archive when it is cut short or damaged."""
    try:
        with path.open("rb") as file:
            yield from _members(file, path.stat().st_size)
    except (_DamagedError, OSError) as error:
        raise UserError(f"{path} is no complete tar: {error}; download or copy it again") from None


def _members(file: io.BufferedReader, length: int) -> Iterator[Member]:
    at, extra = 0, _Extra()
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) == BLOCK and not any(header):
            _check_end(file)
            return
        kind, size = _check(header, at), _number(header[124:136], at)
        data = at + BLOCK
        if kind in (LONG_NAME, PAX, PAX_FOR_ALL):
            if size > MAX_EXTRA:
                raise _DamagedError(f"an extended header of {size} bytes at {at}")
            extra.read(kind, file.read(size))
        else:
            size = extra.size if extra.size is not None else size
            if kind in REGULAR and not extra.sparse:
                yield Member(extra.name or _name(header), data, size)
            extra = _Extra()
        at = data + -(-size // BLOCK) * BLOCK
        if data + size > length:
            raise _DamagedError(f"it ends inside the entry at {data - BLOCK}")


class _Extra:
    """What extended headers say about the entry that follows them."""

    def __init__(self) -> None:
        self.name = ""
        self.size: int | None = None
        self.sparse = False

    def read(self, kind: bytes, data: bytes) -> None:
        if kind == LONG_NAME:
            self.name = _text(data)
        elif kind == PAX:  # headers for all entries hold no name or size that we need
            for key, value in _records(data):
                if key == b"path":
                    self.name = _text(value)
                elif key == b"size":
                    if not re.fullmatch(rb"\d{1,18}", value):
                        raise _DamagedError("an extended header with a senseless size")
                    self.size = int(value)
                self.sparse = self.sparse or key.startswith(b"GNU.sparse")


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """PAX records `<length> <key>=<value>\\n`; the length counts all of it."""
    at = 0
    while match := RECORD.match(data, at):
        end = at + int(match[1])
        if end <= match.end() or end > len(data):
            raise _DamagedError("an extended header with a senseless length")
        yield match[2], data[match.end() : end - 1]
        at = end


def _check(header: bytes, at: int) -> bytes:
    """The type flag of a header whose checksum is right."""
    if len(header) < BLOCK:
        raise _DamagedError(
            "it is cut short: the block of zeros at the end is missing"
            if at
            else "it is shorter than a block"
        )
    found = sum(header) - sum(header[148:156]) + 8 * 32
    if _number(header[148:156], at) != found:
        raise _DamagedError(f"no header at {at}" if at else "it does not begin with a tar header")
    return header[156:157]


def _number(field: bytes, at: int) -> int:
    """An octal number, or GNU's binary one for sizes from 8 GiB."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise _DamagedError(f"a number that is none in the header at {at}")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = header[:100], b""
    if header[257:263] == b"ustar\0":  # GNU's own format keeps other things there
        prefix = header[345:500].rstrip(b"\0") and header[345:500] + b"/"
    return _text(prefix.replace(b"\0", b"") + name)


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode("utf-8", "replace")


def _check_end(file: io.BufferedReader) -> None:
    while piece := file.read(PIECE):
        if piece.strip(b"\0"):
            raise _DamagedError("more follows after its end mark")
