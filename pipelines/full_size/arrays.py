"""Development data -> plain arrays, which a machine without Parquet readers can train on.

    python -m pipelines.full_size.arrays

Writes pipelines/full_size/work/: pool-00.npy, pool-01.npy, ... and train-00.npy, ... [n, S, S, 3] uint8 in files of at
most `prepare.part_mib`, test.npy alike, and train_labels.npy, test_labels.npy [n] int64.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.shared.program import run_study
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Pixels = NDArray[np.uint8]


def decoded(data: bytes, side: int) -> Pixels:
    """[side, side, 3], reduced with Lanczos' filter."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))


def pool(folder: Path, images: int, side: int) -> Pixels:
    """The first `images` training pictures of Tiny-ImageNet. Raises UserError when there are fewer."""
    out: list[Pixels] = []
    for shard in sorted(folder.glob("train-*.parquet")):
        rows = read_table(shard, ["image"])["image"].to_pylist()
        out += [decoded(each, side) for each in rows[: images - len(out)]]
    if len(out) < images:
        raise UserError(f"prepare.images = {images}, but {folder} holds {len(out)} training images")
    return np.stack(out)


def write_parts(images: Pixels, folder: Path, name: str, mib: float) -> None:
    """NAME-00.npy, NAME-01.npy, ...: consecutive images, each file of at most `mib` MiB."""
    count = max(1, int(mib * 2**20 - 256) // images[0].nbytes)
    for part, start in enumerate(range(0, len(images), count)):
        np.save(folder / f"{name}-{part:02d}.npy", images[start : start + count])


def read_parts(folder: Path, name: str) -> Pixels:
    """What `write_parts` wrote. Raises UserError when there is none."""
    parts = sorted(folder.glob(f"{name}-*.npy"))
    if not parts:
        raise UserError(f"{folder} holds no {name}-*.npy; run python -m pipelines.full_size.arrays")
    return np.concatenate([np.load(part) for part in parts])


def write(settings: Mapping[str, Any], out: Path) -> None:
    """All arrays, below `out`. Raises UserError when a source is not there."""
    from safetensors.numpy import load_file

    own = settings["prepare"]
    source, lost = ROOT / own["source"], ROOT / own["cifar10"]
    for path, fix in (
        (source, "name the folder of development data as prepare.source"),
        (lost, "run python -m pipelines.quickstart_data.source"),
    ):
        if not path.exists():
            raise UserError(f"{path} does not exist; {fix}")
    remove(out)
    out.mkdir(parents=True)
    truth = load_file(lost)
    found = pool(source / "tinyimagenet64", own["images"], own["image_size"])
    write_parts(found, out, "pool", own["part_mib"])
    write_parts(truth["train_images"], out, "train", own["part_mib"])
    write_parts(truth["test_images"], out, "test", own["part_mib"])
    for part in ("train", "test"):
        np.save(out / f"{part}_labels.npy", truth[f"{part}_labels"].astype(np.int64))


def main(settings: Mapping[str, Any]) -> None:
    write(settings, HERE / "work")


if __name__ == "__main__":
    run_study(main)
