"""The pool as small pictures of one size, on the disk: a million of them would fill 3 GB of memory.

Decoded batch by batch, in processes where there are many; what is known of each picture alone is measured in passing.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webdistill.core.files import read_table
from webdistill.images.hashes import Bytes, Rows, contrast, entropy
from webdistill.images.pool import SERIAL_BELOW, load_images
from webdistill.images.workers import Workers

SIDE = 32  # px; finer ones find the same duplicates more slowly
BATCH = 1000  # pictures decoded at a time
Doubles = NDArray[np.float64]
Part = tuple[Path, tuple[str, ...]]  # a shard and ids in it
Watch = Callable[..., Iterable[Bytes]]  # (batches, total=, size=) -> the same batches


class Thumbnails:
    """uint8 [N, SIDE, SIDE, 3] in a file without a name, which vanishes with the process; a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        self._count = 0

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, pixels: Bytes) -> None:
        self._file.write(pixels.tobytes())
        self._file.flush()
        self._count += len(pixels)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Rows) -> Bytes:
        if not len(rows):
            return np.empty((0, SIDE, SIDE, 3), np.uint8)
        # Mapped for this call only: pages of a lasting map would count as memory of this process.
        view = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(view, np.uint8).reshape(-1, SIDE, SIDE, 3)[rows]


class Subset:
    """Some of the thumbnails, under row numbers of their own."""

    def __init__(self, whole: Thumbnails, rows: Rows) -> None:
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Rows) -> Bytes:
        return self._whole[self._rows[rows]]


@dataclass(frozen=True)
class Pictures:
    """What a look at every picture of the pool tells, in pool order."""

    ids: list[str]
    thumbnails: Thumbnails
    width: Doubles  # px, as stored
    height: Doubles
    contrast: Doubles
    entropy: Doubles


def read_pictures(pool: Path, thumbnails: Thumbnails, threads: int, watch: Watch) -> Pictures:
    """Fills `thumbnails`. `watch` sees the batches pass by."""
    shards = sorted(pool.glob("*.parquet"))
    parts: list[Part] = []
    ids: list[str] = []
    sides = []
    for shard in shards:
        table = read_table(shard, ["id", "width", "height"])
        names = table["id"].to_pylist()
        parts += [(shard, tuple(names[i : i + BATCH])) for i in range(0, len(names), BATCH)]
        ids += names
        sides.append(np.stack([table[name].to_numpy() for name in ("width", "height")]))
    width, height = np.concatenate([np.empty((2, 0)), *sides], axis=1)
    measured = [np.empty((2, 0))]
    many = sum(shard.stat().st_size for shard in shards) >= SERIAL_BELOW
    for pixels in watch(_decoded(parts, threads if many else 1), total=len(ids), size=len):
        thumbnails.append(pixels)
        measured.append(np.stack([contrast(pixels), entropy(pixels)]))
    seen = np.concatenate(measured, axis=1)
    return Pictures(ids, thumbnails, width, height, seen[0], seen[1])


def _decoded(parts: Sequence[Part], threads: int) -> Iterator[Bytes]:
    if threads == 1:
        yield from map(_decode, parts)
        return
    with Workers(threads, _decode) as processes:
        for (pixels,) in processes.map([part] for part in parts):
            yield pixels


def _decode(part: Part) -> Bytes:
    shard, ids = part
    return load_images(shard, ids, SIDE, 1)[1]
