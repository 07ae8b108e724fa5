"""AVIF: the sizes that the container announces, and those of the coded pictures in it, which may be others.

Decoders allocate the coded size and scale it to the announced one. Still pictures only: of image sequences decoders
read tracks, which are another story.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from webdistill.images.headers.av1 import coded_sizes

BOXES = 10_000  # in one box
INSIDE = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # boxes with boxes in them: bytes before the first
Box = tuple[bytes, int, int]  # kind, where its content begins, where it ends
NO_SIZE = (0, 0, False)


def is_avif(data: bytes) -> bool:
    """Whether the file type's own brand says so, or another one without a track beside it."""
    if data[4:8] != b"ftyp":
        return False
    if data[8:12] in (b"avif", b"avis"):
        return data[8:12] == b"avif"
    brands = data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    named = any(brands[at : at + 4] == b"avif" for at in range(0, len(brands), 4))
    return named and all(kind != b"moov" for kind, _, _ in _boxes(data, 0, len(data)))


def read(data: bytes) -> tuple[int, int, bool]:
    """The largest of the sizes: a thumbnail or the parts of a grid have their own."""
    try:
        boxes = list(_walk(data, 0, len(data)))
        sizes = [
            struct.unpack_from(">II", data, start + 4)
            for kind, start, _ in boxes
            if kind == b"ispe"
        ]
        coded = [size for item in _pictures(data, boxes) for size in coded_sizes(item)]
    except (struct.error, IndexError):
        return NO_SIZE
    if not sizes or not coded:
        return NO_SIZE
    width, height = max([*sizes, *coded], key=lambda size: size[0] * size[1])
    last = [end for _, _, end in _boxes(data, 0, len(data))][-1]
    return width, height, last == len(data)


def _walk(data: bytes, at: int, end: int) -> Iterator[Box]:
    """All boxes, those within others after them."""
    for kind, start, stop in _boxes(data, at, end):
        yield kind, start, min(stop, end)
        if kind in INSIDE and stop <= end:
            yield from _walk(data, start + INSIDE[kind], stop)


def _boxes(data: bytes, at: int, end: int) -> Iterator[Box]:
    """The boxes from `at`; the last may end beyond `end`."""
    for _ in range(BOXES):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= end:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        stop = end if not length else at + max(length, head)
        yield kind, at + head, stop
        at = stop


def _pictures(data: bytes, boxes: list[Box]) -> Iterator[bytes]:
    """The coded bytes of each item that is an AV1 picture."""
    pictures: set[int] = set()
    store = 0  # where the box of data within the metadata begins
    for kind, start, stop in boxes:
        if kind == b"iinf":
            pictures |= _named(data, start, stop)
        elif kind == b"idat":
            store = start
    for kind, start, _ in boxes:
        if kind == b"iloc":
            for item, within, parts in _places(data, start):
                if item in pictures:
                    base = store if within else 0
                    yield b"".join(
                        data[base + at : base + at + n if n else None] for at, n in parts
                    )


def _named(data: bytes, start: int, stop: int) -> set[int]:
    """Numbers of the items of the kind av01."""
    found = set()
    for kind, at, _ in _boxes(data, start + (6 if data[start] == 0 else 8), stop):
        if kind == b"infe" and data[at] in (2, 3):
            number = ">H2x4s" if data[at] == 2 else ">I2x4s"
            item, sort = struct.unpack_from(number, data, at + 4)
            if sort == b"av01":
                found.add(item)
    return found


def _places(data: bytes, start: int) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """(item, whether its places count from the box of data, [(place, length)]) of a box of places."""
    version, sizes = data[start], int.from_bytes(data[start + 4 : start + 6], "big")
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    at = start + 6

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(data):
            raise IndexError
        at += count
        return int.from_bytes(data[at - count : at], "big")

    for _ in range(min(take(wide), BOXES)):
        item = take(wide)
        within = bool(take(2) & 1) if version else False
        take(2)
        begin = take(base)
        parts = []
        for _ in range(min(take(2), BOXES)):
            take(index if version else 0)
            parts.append((begin + take(offset), take(length)))
        yield item, within, parts
