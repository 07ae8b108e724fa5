"""The pool as small pictures of one size, on the disk: a million of them would fill 3 GB of memory.

Decoded shard by shard, on several machines where there are some; what is known of each picture alone is measured in
passing.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from webdistill.core.files import read_table, remove, sha256_file
from webdistill.engine.jobs import Facts, Function, Job, Task
from webdistill.images.hashes import Bytes, Rows, contrast, entropy
from webdistill.images.pool import SERIAL_BELOW, load_images
from webdistill.images.workers import Workers

if TYPE_CHECKING:
    from webdistill.harness.stage import Stage

SIDE = 32  # px; finer ones find the same duplicates more slowly
BATCH = 1000  # pictures decoded at a time
Doubles = NDArray[np.float64]
Part = tuple[Path, tuple[str, ...]]  # a shard and ids in it
Decoder = Callable[[Iterable[Sequence[Part]]], Iterator[list[Bytes]]]
PIXELS = pa.schema([("pixels", pa.binary(SIDE * SIDE * 3))])


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


def shrink(stage: Stage, pool: Path) -> dict[Path, Path]:
    """Each shard of the pool and a file with its thumbnails, which the engine makes."""
    from webdistill.engine import machine, running  # not for the processes that decode

    shards, threads = sorted(pool.glob("*.parquet")), stage.task.threads
    folder = stage.scratch(machine.facts(None))
    made = {shard: folder / f"{shard.stem}-{sha256_file(shard)[:32]}.parquet" for shard in shards}
    rows = {shard: read_table(shard, ["id"]).num_rows for shard in shards}
    jobs = [Job(shard, path, rows[shard]) for shard, path in made.items()]
    many = sum(shard.stat().st_size for shard in shards) >= SERIAL_BELOW
    with Workers(threads, _decode) as processes:
        decode = processes.map if many and threads > 1 else _one_by_one
        running.run(stage, Task(shrinker, {}, partial(shrink_shard, decode)), jobs)
    stage.when_published(lambda: remove(folder))
    return made


def shrinker(_: Facts) -> Function:
    """The same on another machine, where shards are decoded side by side."""
    return partial(shrink_shard, _one_by_one)


def shrink_shard(decode: Decoder, shard: Path, target: Path) -> Iterator[int]:
    """The thumbnails of one pool shard into the file `target`; yields images done."""
    names = tuple(read_table(shard, ["id"])["id"].to_pylist())
    parts = ([(shard, names[i : i + BATCH])] for i in range(0, len(names), BATCH))
    with pq.ParquetWriter(target, PIXELS, compression="none", write_page_checksum=True) as file:
        for (pixels,) in decode(parts):
            rows = pa.FixedSizeBinaryArray.from_buffers(
                PIXELS.field("pixels").type, len(pixels), [None, pa.py_buffer(pixels.tobytes())]
            )
            file.write_table(pa.table([rows], PIXELS))
            yield len(pixels)


def read_pictures(made: Mapping[Path, Path], thumbnails: Thumbnails) -> Pictures:
    """Fills `thumbnails` from what `shrink` has made."""
    ids: list[str] = []
    sides, measured = [np.empty((2, 0))], [np.empty((2, 0))]
    for shard, path in made.items():
        table = read_table(shard, ["id", "width", "height"])
        ids += table["id"].to_pylist()
        sides.append(np.stack([table[name].to_numpy() for name in ("width", "height")]))
        for pixels in _read(path):
            thumbnails.append(pixels)
            measured.append(np.stack([contrast(pixels), entropy(pixels)]))
    width, height = np.concatenate(sides, axis=1)
    seen = np.concatenate(measured, axis=1)
    return Pictures(ids, thumbnails, width, height, seen[0], seen[1])


def _read(path: Path) -> Iterator[Bytes]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group)["pixels"].combine_chunks()
            yield np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, SIDE, SIDE, 3)


def _one_by_one(batches: Iterable[Sequence[Part]]) -> Iterator[list[Bytes]]:
    for batch in batches:
        yield [_decode(part) for part in batch]


def _decode(part: Part) -> Bytes:
    shard, ids = part
    return load_images(shard, ids, SIDE, 1)[1]
