"""Development data -> what the pool is made of: a list of candidates, a teacher, a labelled test set.

    python -m pipelines.compare.prepare

Reads the folder that `source` in params.yaml names: Tiny-ImageNet pictures as the web, a CIFAR-10 teacher, CIFAR-10's
test images. Writes pipelines/compare/work/: list.parquet, teacher/ and test/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.quickstart_data.test_set import image_id
from pipelines.shared.program import run_study
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, remove, write_table
from webdistill.images.gate import decode
from webdistill.images.pool import IMAGE_TYPE

HERE = Path(__file__).parent
LICENCE = "ImageNet terms of access: non-commercial research"


def development_data(settings: Mapping[str, Any], root: Path, study: str) -> Path:
    """The folder that prepare.source of a study names. Raises UserError when it is not there."""
    named = settings["prepare"]["source"]
    if not (root / named).is_dir():
        raise UserError(
            f"the folder of development data {named} does not exist; "
            f"name it as prepare.source in pipelines/{study}/params.yaml"
        )
    return root / str(named)


def candidates(source: Path, images: int) -> pa.Table:
    """The first `images` rows of Tiny-ImageNet's shards as a list for `search`: bytes and caption, no keyword.

    The class words of Tiny-ImageNet stand where an alt text would; the list has no address and names no class.
    """
    folder = source / "tinyimagenet64"
    parts, count = [], 0
    for shard in sorted(folder.glob("train-*.parquet")):
        parts.append(read_table(shard, ["image", "words"]).slice(0, images - count))
        count += parts[-1].num_rows
        if count == images:
            break
    if count < images:
        raise UserError(f"prepare.images = {images}, but {folder} holds {count} training images")
    table = pa.concat_tables(parts)
    licence = pa.array([LICENCE] * count)
    return pa.table({"image": table["image"], "caption": table["words"], "licence": licence})


def write_teacher(source: Path, name: str, classes: list[str], folder: Path) -> None:
    """Weights and card of `name` in teachers.json, checked by loading them."""
    from webdistill.models.checkpoint import load_network, load_weights, save_network
    from webdistill.models.zoo import build

    known: dict[str, Any] = read_json(source / "teachers" / "teachers.json")
    if name not in known:
        raise UserError(f"prepare.teacher = {name}: teachers.json has {', '.join(known)}")
    facts = known[name]
    architecture = name.rpartition("_")[2]
    net = build(architecture, len(classes))
    load_weights(net, source / "teachers" / facts["file"], architecture)
    card = {
        "name": name,
        "architecture": architecture,
        "classes": classes,
        "image_size": 32,
        "mean": facts["mean"],
        "std": facts["std"],
        "parameters": facts["params"],
        "trained_on": "CIFAR-10 train images",
        "test_accuracy": facts["test_top1_measured"] / 100,
        "licence": facts["licence"],
    }
    save_network(folder, net, card)
    load_network(folder)


def test_tables(source: Path) -> tuple[pa.Table, pa.Table]:
    """CIFAR-10's test images (id, image) and labels (id, label), in their order, the bytes as they came."""
    table = pq.read_table(source / "cifar10" / "test.parquet", columns=["image", "label"])
    data = table["image"].to_pylist()
    ids = [image_id(np.asarray(decode(each))) for each in data]
    cells = [{"bytes": each, "path": f"{row:05d}.webp"} for row, each in enumerate(data)]
    pictures = pa.table({"id": ids, "image": pa.array(cells, IMAGE_TYPE)})
    return pictures, pa.table({"id": ids, "label": table["label"].cast(pa.int64())})


def write_test(source: Path, folder: Path) -> None:
    """images.parquet and labels.parquet of `test_tables`."""
    pictures, labels = test_tables(source)
    folder.mkdir()
    write_table(pictures, folder / "images.parquet")
    write_table(labels, folder / "labels.parquet")


def prepare(settings: dict[str, Any], root: Path, out: Path) -> None:
    """Write list.parquet, teacher/ and test/ below `out`. Raises UserError when the source is not there."""
    source = development_data(settings, root, "compare")
    remove(out)
    out.mkdir(parents=True)
    write_table(candidates(source, settings["prepare"]["images"]), out / "list.parquet")
    classes = list(settings["common"]["task"]["classes"])
    write_teacher(source, settings["prepare"]["teacher"], classes, out / "teacher")
    write_test(source, out / "test")


def main(settings: dict[str, Any]) -> None:
    prepare(settings, HERE.parents[1], HERE / "work")


if __name__ == "__main__":
    run_study(main)
