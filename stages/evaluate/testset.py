"""The labelled test set: images and labels joined by id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.images.pool import load_images


@dataclass(frozen=True)
class TestSet:
    """N images in file order with their labels."""

    __test__ = False  # not a pytest class

    ids: list[str]
    images: NDArray[np.uint8]  # [N, size, size, 3]
    labels: NDArray[np.int64]  # [N]


def read(images: Path, labels: Path, size: int, classes: int) -> TestSet:
    """Join both files by id. Raises UserError when they do not belong together or a label is no class."""
    ids = read_table(images, ["id", "image"]).column("id").to_pylist()
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
    _, pixels = load_images(images, None, size, workers=1)
    return TestSet(ids=ids, images=pixels, labels=values)
