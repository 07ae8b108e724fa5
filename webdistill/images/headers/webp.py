"""WebP: the canvas that the first chunk announces."""

from __future__ import annotations

import struct


def read(data: bytes) -> tuple[int, int, bool]:
    """The file says how long it is."""
    return *_size(data), len(data) >= int.from_bytes(data[4:8], "little") + 8


def _size(data: bytes) -> tuple[int, int]:
    """Lossy, lossless or extended."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0
