"""The pool: shards `00000.parquet, 00001.parquet, ...` with one picture per row, named by its pixels.

    id string | image struct<bytes binary, path string> | width int32 | height int32 | query string | caption string

Hugging Face `datasets` shows `image` as a picture (the features are in the header), DuckDB and Polars read the rest.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from webdistill.core.errors import UserError
from webdistill.core.files import read_table, shards, write_table
from webdistill.images.stored import decode
from webdistill.images.workers import Workers

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE_TYPE),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("query", pa.string()),
        ("caption", pa.string()),
    ]
)
SERIAL_BELOW = 32 << 20  # bytes of shards; less is decoded about as fast as processes start
BATCH = 256  # rows turned into Arrow arrays at a time
SHARD_BYTES = 512 << 20  # of pictures in a shard; a row group is as large as that at most
READ = 64  # pictures in memory at a time while they are decoded,
BUFFER = 1 << 20  # and bytes of their file read ahead


@dataclass(frozen=True)
class PoolRow:
    """One picture of the pool; `image` is what `stored.encode` made."""

    id: str
    image: bytes
    width: int
    height: int
    query: str
    caption: str


def write_pool(
    rows: Iterable[PoolRow], folder: Path, shard_size: int, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write shards into the new folder; same rows, same bytes. -> number of rows.

    A shard closes at `shard_size` rows, or before the picture with which it would hold more than `shard_bytes` bytes of
    them; one that is larger has a shard of its own.
    """
    folder.mkdir(parents=True)
    count = 0
    for number, tables in enumerate(_shards(rows, shard_size, shard_bytes)):
        table = pa.concat_tables(tables)
        write_table(table, folder / f"{number:05d}.parquet", _features())
        count += table.num_rows
    return count


def read_files(shard: Path, groups: Sequence[int] | None = None) -> Iterator[pa.Array]:
    """The encoded pictures of a shard (of some row groups) in order, a few at a time.

    A shard's pictures do not fit one Arrow column beyond 2 GiB, nor memory. Raises UserError when it is damaged.
    """
    try:
        with pq.ParquetFile(
            shard, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False
        ) as file:
            _check_images(shard, file.schema_arrow)
            wanted = range(file.num_row_groups) if groups is None else groups
            for batch in file.iter_batches(READ, list(wanted), ["image.bytes"], use_threads=False):
                yield pc.struct_field(batch.column(0), "bytes")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {shard}: {error}") from None


def load_images(
    pool: Path, ids: Sequence[str] | None, size: int, workers: int
) -> tuple[list[str], np.ndarray]:
    """Pictures as one array: (ids, uint8 [N, size, size, 3]).

    Shorter side resized to `size` (bicubic with antialiasing), then the centre cut out. `ids`: which ones and in
    which order; None = the whole pool in its order. `pool`: a folder of shards, or one Parquet file with the columns
    `id` and `image`. Decoded by `workers` processes when there are many. Raises UserError for a damaged shard or an
    id that the pool does not hold.
    """
    files = [pool] if pool.is_file() else shards(pool)
    names, jobs = _plan(files, ids, pool, size)
    out = np.empty((len(names), size, size, 3), dtype=np.uint8)
    if workers <= 1 or sum(file.stat().st_size for file in files) < SERIAL_BELOW:
        for job in jobs:
            out[list(job.targets)] = _load(job)
        return names, out
    with Workers(workers, _load) as processes:
        for job, (pixels,) in zip(jobs, processes.map([job] for job in jobs), strict=True):
            out[list(job.targets)] = pixels
    return names, out


def square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` px (bicubic, antialiased), then the centre `size` x `size`."""
    short = min(image.size)
    if short != size:
        width, height = (max(size, round(side * size / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    if image.size == (size, size):
        return image
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class _Job:
    """Rows `rows` of one row group, which go to places `targets` of the array; `first`: its first row in the file."""

    file: Path
    group: int
    first: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    size: int


def _plan(
    files: Sequence[Path], ids: Sequence[str] | None, pool: Path, size: int
) -> tuple[list[str], list[_Job]]:
    present = [read_table(file, ["id"]).column("id").to_pylist() for file in files]
    if ids is None:
        names = [name for part in present for name in part]
        places = list(range(len(names)))
    else:
        names = list(ids)
        wanted = {name: at for at, name in enumerate(names)}
        places = [wanted.pop(name, -1) for part in present for name in part]  # -1: not asked for
        if wanted or len(set(names)) != len(names):
            example = next(iter(wanted), "")
            problem = (
                f"image {example} is not in {pool}"
                if wanted
                else "the list of ids names an image twice"
            )
            raise UserError(
                f"{problem}; run `dvc repro` so that the stages' outputs fit together again"
            )
    jobs: list[_Job] = []
    start = 0
    for file in files:
        with pq.ParquetFile(file) as parquet:
            _check_images(file, parquet.schema_arrow)
            heights = [
                parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)
            ]
        opening = start
        for group, height in enumerate(heights):
            rows = tuple(row for row in range(height) if places[start + row] >= 0)
            targets = tuple(places[start + row] for row in rows)
            if rows:
                jobs.append(_Job(file, group, start - opening, rows, targets, size))
            start += height
    return names, jobs


def _check_images(file: Path, schema: pa.Schema) -> None:
    kind = schema.field("image").type if "image" in schema.names else pa.null()
    inner = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    if inner.get("bytes") not in (pa.binary(), pa.large_binary()):
        raise UserError(f"{file}: column 'image' must be a struct of bytes and path, found {kind}")


def _load(job: _Job) -> np.ndarray:
    out = np.empty((len(job.rows), job.size, job.size, 3), dtype=np.uint8)
    for at, data in enumerate(_wanted(job)):
        try:
            out[at] = np.asarray(square(decode(data), job.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            row = job.first + job.rows[at]
            raise UserError(
                f"{job.file}: the image of row {row} cannot be decoded: {error}"
            ) from None
    return out


def _wanted(job: _Job) -> Iterator[bytes]:
    """The encoded pictures of the job's rows; what comes after the last of them is not read."""
    rows, start = deque(job.rows), 0
    for part in read_files(job.file, [job.group]):
        while rows and rows[0] < start + len(part):
            yield part[rows.popleft() - start].as_py() or b""
        if not rows:
            return
        start += len(part)


def _shards(rows: Iterable[PoolRow], shard_size: int, shard_bytes: int) -> Iterator[list[pa.Table]]:
    """What goes into each shard, in pieces of BATCH rows."""
    tables: list[pa.Table] = []
    part: list[PoolRow] = []
    count = size = 0
    for row in rows:
        if count and (count == shard_size or size + len(row.image) > shard_bytes):
            yield [*tables, *([_table(part)] if part else [])]
            tables, part, count, size = [], [], 0, 0
        part.append(row)
        count, size = count + 1, size + len(row.image)
        if len(part) == BATCH:
            tables.append(_table(part))
            part = []
    if count:
        yield [*tables, *([_table(part)] if part else [])]


def _table(rows: Sequence[PoolRow]) -> pa.Table:
    columns = {
        name: [getattr(row, name) for row in rows] for name in SCHEMA.names if name != "image"
    }
    images = [{"bytes": row.image, "path": _file_name(row)} for row in rows]
    return pa.table({**columns, "image": images}, schema=SCHEMA)


def _file_name(row: PoolRow) -> str:
    return f"{row.id}.{'webp' if row.image.startswith(b'RIFF') else 'jpg'}"


def _features() -> dict[str, str]:
    kinds = {"string": "string", "int32": "int32"}
    features = {
        field.name: {"_type": "Image"}
        if field.name == "image"
        else {"dtype": kinds[str(field.type)], "_type": "Value"}
        for field in SCHEMA
    }
    return {"huggingface": json.dumps({"info": {"features": features}})}
