"""PNG: the first chunk, and the names of all others."""

from __future__ import annotations

import struct

MAGIC = b"\x89PNG\r\n\x1a\n"


def read(data: bytes) -> tuple[int, int, bool]:
    """The picture ends with the chunk IEND."""
    if data[12:16] != b"IHDR" or len(data) <= 24:
        return 0, 0, False
    width, height = struct.unpack_from(">II", data, 16)
    return width, height, _ends(data)


def depth(data: bytes) -> int:
    """Bits of a sample."""
    return data[24]


def _ends(data: bytes) -> bool:
    at = len(MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + length
    return False
