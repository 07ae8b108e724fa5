"""The images of a run as one uint8 array: real ones from Parquet files, or noise when asked for by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.plan import SIZE
from webdistill.core.errors import UserError
from webdistill.images.gate import decode
from webdistill.images.pool import square

SYNTHETIC = "synthetic"


def load(source: str, count: int) -> np.ndarray:
    """The first `count` images of the folder `source` -> uint8 [count, SIZE, SIZE, 3].

    The folder's Parquet files, in the order of their names, hold encoded images in the column `image` (bytes, or a
    struct with the field `bytes`). `synthetic`: noise.
    """
    if source == SYNTHETIC:
        return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    files = sorted(Path(source).glob("*.parquet"))
    if not files:
        raise UserError(
            f"--images {source}: no Parquet files there; name another folder or ask for --images {SYNTHETIC}"
        )
    images: list[np.ndarray] = []
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=256, columns=["image"]):
                for value in batch.column(0)[: count - len(images)].to_pylist():
                    data = value["bytes"] if isinstance(value, dict) else value
                    images.append(np.asarray(square(decode(data), SIZE)))
                if len(images) == count:
                    return np.stack(images)
    raise UserError(f"--images-count {count}: {source} holds only {len(images)} images; lower it")


def write(source: str, count: int, target: Path) -> None:
    """`load` into an .npy file, for other processes."""
    np.save(target, load(source, count))
