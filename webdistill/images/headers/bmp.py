"""BMP: one header of one of several lengths, and rows without compression or with it."""

from __future__ import annotations

import struct

HEADERS = tuple(length.to_bytes(4, "little") for length in (12, 16, 40, 52, 56, 64, 108, 124))
RUN_LENGTHS = (1, 2)  # of 8 and of 4 bits a pixel
PLAIN = (0, 3, 6)  # without and with masks of colours


def read(data: bytes) -> tuple[int, int, bool]:
    """Rows without compression have a length that follows from the size; others end with a mark."""
    if len(data) < 26:
        return 0, 0, False
    (start,) = struct.unpack_from("<I", data, 10)
    if data[14:18] == HEADERS[0]:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    elif len(data) >= 54:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    else:
        return 0, 0, False
    width, height = max(width, 0), abs(height)  # rows from top to bottom have a negative height
    if packing in RUN_LENGTHS:
        return width, height, data.find(b"\0\1", start) >= 0
    rows = (bits * width + 31) // 32 * 4 * height
    return width, height, packing in PLAIN and start + rows <= len(data)
