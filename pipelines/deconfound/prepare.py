"""Development data -> a pool of foreign classes in which the teacher sees some classes much more often than others.

    python -m pipelines.deconfound.prepare

Reads the teacher of `python -m pipelines.deconfound.teacher`. Writes pipelines/deconfound/work/: list.parquet, training
images of the classes that the teacher does not know, and test/, the validation images of those that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines.compare.prepare import LICENCE
from pipelines.deconfound.teacher import (
    CLASSES,
    HERE,
    ROOT,
    SHARDS,
    answers,
    known_labels,
    of_classes,
    pixels,
    read_shards,
)
from pipelines.quickstart_data.test_set import image_id
from pipelines.shared.program import run_study
from webdistill.core.files import remove, write_json, write_table
from webdistill.images.gate import decode
from webdistill.images.pool import IMAGE_TYPE
from webdistill.models.checkpoint import load_network


def wanted(counts: NDArray[np.int64], largest: int, skew: float) -> NDArray[np.int64]:
    """How many of the images that a class has [K] to keep: geometrically from `largest` down to `largest / skew`.

    The class with the most images comes first. A class that has fewer keeps them all.
    """
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    target = largest * skew ** -(rank / (len(counts) - 1))
    return np.minimum(np.round(target).astype(np.int64), counts)


def thinned(
    predicted: NDArray[np.int64], classes: int, largest: int, skew: float, seed: int
) -> NDArray[np.int64]:
    """Rows kept of images with these predicted classes [N], by lot within a class, in their order."""
    rng = np.random.default_rng(seed)
    keep = wanted(np.bincount(predicted, minlength=classes), largest, skew)
    parts = [
        rng.permutation(np.flatnonzero(predicted == each))[: keep[each]] for each in range(classes)
    ]
    return np.sort(np.concatenate(parts))


def candidates(source: Path, known: list[int], own: dict[str, Any], teacher: Path) -> pa.Table:
    """The list for `search`; class words stand where an alt text would, and name no class of the teacher."""
    foreign = sorted(set(range(CLASSES)) - set(known))
    table = of_classes(read_shards(source, SHARDS), foreign).slice(0, own["images"])
    seen = answers(load_network(teacher).net, pixels(table["image"])).argmax(1).numpy()
    rows = thinned(seen, len(known), own["largest"], own["skew"], own["seed"])
    kept = np.bincount(seen[rows], minlength=len(known))
    print(f"{len(rows):,} of {len(seen):,} images, {kept.max()} to {kept.min()} a class")
    write_json({"kept": kept.tolist()}, HERE / "work" / "counts.json")
    table = table.take(rows)
    licence = pa.array([LICENCE] * len(rows))
    return pa.table({"image": table["image"], "caption": table["words"], "licence": licence})


def test_tables(source: Path, known: list[int]) -> tuple[pa.Table, pa.Table]:
    """Validation images (id, image) of the teacher's classes, and their labels (id, label) in its numbering."""
    table = of_classes(read_shards(source, ["val"]), known)
    data = table["image"].to_pylist()
    ids = [image_id(np.asarray(decode(each))) for each in data]
    _, first = np.unique(ids, return_index=True)
    rows = np.sort(first)  # equal pictures once
    cells = [{"bytes": data[row], "path": f"{row:05d}.jpg"} for row in rows]
    labels = [known.index(label) for label in table["label"].to_pylist()]
    names = [ids[row] for row in rows]
    pictures = pa.table({"id": names, "image": pa.array(cells, IMAGE_TYPE)})
    return pictures, pa.table({"id": names, "label": [labels[row] for row in rows]})


def main(settings: Mapping[str, Any]) -> None:
    own, out = settings["prepare"], HERE / "work"
    source, known = ROOT / own["source"], known_labels(settings["teacher"]["seed"])
    torch.set_num_threads(1)
    for name in ("list.parquet", "test"):
        remove(out / name)
    table = candidates(source, known, own, out / "teacher")
    pictures, labels = test_tables(source, known)
    write_table(table, out / "list.parquet")
    (out / "test").mkdir(parents=True)
    write_table(pictures, out / "test" / "images.parquet")
    write_table(labels, out / "test" / "labels.parquet")


if __name__ == "__main__":
    run_study(main)
