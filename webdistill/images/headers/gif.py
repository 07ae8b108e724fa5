"""GIF: the screen, and the first frame with its blocks; later frames do not count."""

from __future__ import annotations

import struct

BLOCKS = 100_000  # before the end of the first frame; a frame of 25 MB has as many


def read(data: bytes) -> tuple[int, int, bool]:
    """The screen, or more where the first frame sticks out of it, since decoders enlarge the canvas then."""
    if len(data) < 13:
        return 0, 0, False
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    for _ in range(BLOCKS):
        mark = data[at : at + 1]
        if mark == b"!":  # an extension
            at = _after_blocks(data, at + 2)
        elif mark == b"," and at + 10 < len(data):
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            end = _after_blocks(data, at + 11 + _colours(flags))
            return max(width, left + wide), max(height, top + high), end <= len(data)
        else:
            break
    return width, height, False


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    """Where the empty block ends that closes a row of blocks; beyond the file where there is none."""
    for _ in range(BLOCKS):
        if at >= len(data) or not data[at]:
            break
        at += 1 + data[at]
    else:
        return len(data) + 1
    return at + 1
