"""The quickstart's test set: CIFAR-10 test images, the same number of each class, lossless, shuffled.

    python -m pipelines.quickstart_data.test_set

Writes data/quickstart/test/images.parquet (id, image) and labels.parquet (id, label), which are kept apart so that
a stage that needs the pictures cannot see the labels.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from pipelines.quickstart_data.shifts import encode
from webdistill.core.files import write_table
from webdistill.harness.params import read_yaml

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "data" / "quickstart" / "test"


def image_id(pixels: NDArray[np.uint8]) -> str:
    """[H, W, 3] uint8 RGB -> the id by content that the whole pipeline uses (32 hex digits)."""
    height, width, _ = pixels.shape
    data = struct.pack("<II", width, height) + np.ascontiguousarray(pixels).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]


def choose(labels: NDArray[np.uint8], per_class: int, seed: int) -> NDArray[np.int64]:
    """[N] labels -> indices of the test set in its final, shuffled order: `per_class` of each class."""
    rng = np.random.default_rng([seed, 1])
    picked = [
        rng.choice(np.flatnonzero(labels == c), per_class, replace=False)
        for c in range(int(labels.max()) + 1)
    ]
    return rng.permutation(np.concatenate(picked)).astype(np.int64)


def tables(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[pa.Table, pa.Table]:
    """[N, H, W, 3] and [N] in final order -> the table of pictures and the table of labels."""
    ids = [image_id(pixels) for pixels in images]
    if len(set(ids)) != len(ids):
        raise RuntimeError("two test images have the same pixels")
    cells = [
        {"bytes": encode(Image.fromarray(pixels), "webp_lossless"), "path": f"{row:05d}.webp"}
        for row, pixels in enumerate(images)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.table({"id": ids, "image": pa.array(cells, kind)})
    return pictures, pa.table({"id": ids, "label": pa.array(labels, pa.int64())})


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = read_yaml(HERE / "params.yaml")["test_set"]
    data = load_file(HERE / "work" / "cifar10.safetensors")
    rows = choose(data["test_labels"], params["per_class"], params["seed"])
    pictures, labels = tables(data["test_images"][rows], data["test_labels"][rows])
    OUT.mkdir(parents=True, exist_ok=True)
    write_table(pictures, OUT / "images.parquet")
    write_table(labels, OUT / "labels.parquet")
    print(f"{OUT}: {len(rows):,} test images, {params['per_class']} of each class")


if __name__ == "__main__":
    main()
