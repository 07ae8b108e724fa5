"""The labelled test set: images and labels joined by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.pool import load_images, read_files, square
from webdistill.images.stored import decode

MOST, PIXELS = 256, 2**20  # images and pixels of a batch: 256 images of 64 px, 20 of 224


@dataclass(frozen=True)
class TestSet:
    """N images in file order with their labels; the pictures stay in the file until they are asked for."""

    __test__ = False  # not a pytest class

    file: Path
    size: int  # px
    ids: list[str]
    labels: NDArray[np.int64]  # [N]

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """All images in order, uint8 [B, size, size, 3], a few at a time: no test set outgrows memory."""
        most = max(1, min(MOST, PIXELS // self.size**2))
        part: list[NDArray[np.uint8]] = []
        for row, data in enumerate(data for some in read_files(self.file) for data in some):
            try:
                part.append(np.asarray(square(decode(data.as_py() or b""), self.size)))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(
                    f"{self.file}: the image of row {row} cannot be decoded: {error}"
                ) from None
            if len(part) == most:
                yield np.stack(part)
                part = []
        if part:
            yield np.stack(part)

    def absent(self, classes: Sequence[str]) -> list[str]:
        """The classes of which it has no image."""
        shown = set(self.labels.tolist())
        return [name for place, name in enumerate(classes) if place not in shown]

    def some(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """The images of these ids [n, size, size, 3]."""
        return load_images(self.file, ids, self.size, workers=1)[1]


def read(images: Path, labels: Path, size: int, classes: int) -> TestSet:
    """Join both files by id. Raises UserError when they do not belong together or a label is no class."""
    ids = read_table(images, ["id"]).column("id").to_pylist()
    truth = read_table(labels, ["id", "label"])
    kind = truth.schema.field("label").type
    if not pa.types.is_integer(kind) or truth["label"].null_count:
        raise UserError(f"{labels}: column 'label' must hold integers and no null, found {kind}")
    named = dict(
        zip(truth.column("id").to_pylist(), truth.column("label").to_pylist(), strict=True)
    )
    if not ids:
        raise UserError(
            f"{images} holds no test images, so nothing can be measured; label some, a folder per class, and run "
            "`python -m webdistill init --test FOLDER --force` with the other flags as before, or stop at "
            "`dvc repro distill`, whose student needs none"
        )
    missing = [name for name in ids if name not in named]
    if missing or len(named) != len(ids):
        raise UserError(
            f"{labels} must hold one label for each of the {len(ids)} images of {images}; it has {len(named)} and "
            f"{len(missing)} images have none"
        )
    values = np.array([named[name] for name in ids], np.int64)
    if values.min() < 0 or values.max() >= classes:
        bad = values.max() if values.max() >= classes else values.min()
        raise UserError(
            f"{labels}: label {bad} is outside 0-{classes - 1}; task.classes has {classes} classes"
        )
    return TestSet(file=images, size=size, ids=ids, labels=values)
