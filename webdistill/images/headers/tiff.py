"""TIFF and BigTIFF: the first directory of tags."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ENTRIES = 4096  # of a directory
WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT = 256, 257, 322, 323
PLACES = ((273, 279), (324, 325))  # offsets and lengths of strips, and of tiles
TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # whole numbers


class _Form(NamedTuple):
    order: str
    number: str  # how the number of entries is written,
    entry: str  # and an entry without its value
    offset: str


def read(data: bytes) -> tuple[int, int, bool]:
    """The largest size that the directory names, for the picture or a tile of it: decoders allocate whole tiles."""
    tags = _directory(data)
    width, height = (_most(tags.get(tag)) for tag in (WIDTH, HEIGHT))
    tile = [_most(tags.get(tag)) for tag in (TILE_WIDTH, TILE_HEIGHT)]
    if width and height and tile[0] * tile[1] > width * height:
        width, height = max(width, tile[0]), max(height, tile[1])
    return width, height, all(_lie(data, tags.get(a), tags.get(b)) for a, b in PLACES)


def _directory(data: bytes) -> dict[int, np.ndarray]:
    """Tag -> its numbers; those that repeat are taken together."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[:4] in MAGICS[2:]
    form = _Form(order, "Q", "HHQ", "Q") if big else _Form(order, "H", "HHI", "I")
    found: dict[int, np.ndarray] = {}
    try:
        (at,) = struct.unpack_from(order + form.offset, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + form.number, data, at)
        at += struct.calcsize(order + form.number)
        head, value = (struct.calcsize(order + part) for part in (form.entry, form.offset))
        for start in range(at, at + min(count, ENTRIES) * (head + value), head + value):
            tag, kind, length = struct.unpack_from(order + form.entry, data, start)
            numbers = _numbers(data, form, kind, length, start + head, value)
            found[tag] = np.concatenate([found[tag], numbers]) if tag in found else numbers
    except struct.error:  # the directory lies beyond the end
        return {}
    return found


def _numbers(data: bytes, form: _Form, kind: int, length: int, at: int, room: int) -> np.ndarray:
    """An entry's numbers, none where it holds others or lies beyond the end."""
    dtype = np.dtype(form.order + TYPES[kind]) if kind in TYPES else None
    if dtype is None or not length:
        return np.empty(0, np.uint64)
    if length * dtype.itemsize > room:
        (at,) = struct.unpack_from(form.order + form.offset, data, at)
    if at + length * dtype.itemsize > len(data):
        return np.empty(0, np.uint64)
    return np.frombuffer(data, dtype, length, at).astype(np.uint64)


def _most(numbers: Iterable[int] | None) -> int:
    return max(map(int, numbers), default=0) if numbers is not None else 0


def _lie(data: bytes, offsets: np.ndarray | None, lengths: np.ndarray | None) -> bool:
    """Whether all parts lie within the file, as far as their places are named."""
    if offsets is None or lengths is None:
        return True
    if len(offsets) != len(lengths) or not len(offsets):
        return False
    return bool((offsets.astype(float) + lengths.astype(float) <= len(data)).all())
