"""JPEG: the frame header before the first scan."""

from __future__ import annotations

import re
import struct

# Start-of-frame markers: all of C0..CF but DHT (C4), JPG (C8) and DAC (CC).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LONE = frozenset(range(0xD0, 0xD9)) | {0x00, 0x01}  # no segment follows; FF 00 is no marker
MARKERS = 10_000  # before the first scan; more, or more fill, would keep Python busy for seconds
FILL = re.compile(rb"\xff{1,65536}")


def read(data: bytes) -> tuple[int, int, bool]:
    """Bytes before a marker that belong to nothing are passed by, as decoders do."""
    width, height, scan = _frame(data)
    # Byte stuffing keeps FF D9 out of scan data, so its first appearance is the end of the image.
    return width, height, scan > 0 and data.find(b"\xff\xd9", scan) >= 0


def _frame(data: bytes) -> tuple[int, int, int]:
    """(width, height, offset of the first scan); zeros for what was not found."""
    width = height = 0
    at = 2
    for _ in range(MARKERS):
        fill = FILL.search(data, at)
        at = fill.end() - 1 if fill else len(data)
        if at + 4 > len(data) or data[at + 1] == 0xFF:
            break
        marker = data[at + 1]
        if marker in LONE:
            at += 2
            continue
        if marker == 0xDA:
            return width, height, at
        if marker in FRAMES and at + 9 <= len(data):
            high, wide = struct.unpack_from(">HH", data, at + 5)
            # The largest, should there be several.
            width, height = max(width, wide), max(height, high)
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return width, height, 0
