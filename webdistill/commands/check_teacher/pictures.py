"""Some images of a pool or Parquet file, with labels where the user gave them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.pool import load_images

FILES = 4  # shards looked into
PIXELS = 25_000_000  # decoded at most: 498 images of 224 px


@dataclass(frozen=True)
class Pictures:
    """N images and where they are from; `labels` only where a file of labels was named."""

    source: Path
    images: NDArray[np.uint8]  # [N, S, S, 3]
    labels: NDArray[np.int64] | None  # [N]

    def some(self, count: int, pixels: int) -> NDArray[np.uint8]:
        """At most `count` of the images and, but for the first one, `pixels` pixels."""
        return self.images[: max(1, min(count, pixels // self.images.shape[1] ** 2))]


def read(source: Path, size: int, count: int, labels: Path | None, classes: int) -> Pictures:
    """About `count` images of `source` (a folder of shards or one Parquet file) with `size` px.

    Evenly spread over the source, then shuffled, always in the same way: any beginning of them is a fair sample.
    Raises UserError when there is none, or when the labels do not fit.
    """
    truth = None if labels is None else _labels(labels, classes)
    if not source.exists():
        raise UserError(f"{source} does not exist; name a pool or a Parquet file with --images")
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} holds no .parquet file; name a pool or a Parquet file")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, FILES).astype(int))]
    share = max(1, min(count, PIXELS // size**2) // len(chosen))
    names: list[str] = []
    parts = []
    for file in chosen:
        ids = _ids(file, truth)
        if ids:
            places = np.linspace(0, len(ids) - 1, min(len(ids), share)).astype(int)
            found, pixels = load_images(file, [ids[i] for i in places], size, workers=1)
            names += found
            parts.append(pixels)
    if not names:
        whose = f" that {labels} has a label for" if labels else ""
        raise UserError(f"{source} holds no image{whose}")
    order = np.random.default_rng(0).permutation(len(names))
    known = None if truth is None else np.array([truth[names[i]] for i in order], np.int64)
    return Pictures(source, np.concatenate(parts)[order], known)


def _ids(file: Path, among: Container[str] | None) -> list[str]:
    ids = read_table(file, ["id"])["id"].to_pylist()
    names = pq.read_schema(file).names
    if "image" not in names:
        raise UserError(f"{file} has no column 'image'; it has {', '.join(names)}")
    return list(dict.fromkeys(name for name in ids if among is None or name in among))


def _labels(path: Path, classes: int) -> dict[str, int]:
    table = read_table(path, ["id", "label"])
    kind = table.schema.field("label").type
    if not pa.types.is_integer(kind) or table["label"].null_count:
        raise UserError(f"{path}: column 'label' must hold integers and no null, found {kind}")
    truth = dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
    if bad := [label for label in truth.values() if not 0 <= label < classes]:
        raise UserError(
            f"{path}: label {bad[0]} is outside 0-{classes - 1}; the teacher has {classes} classes"
        )
    return truth
