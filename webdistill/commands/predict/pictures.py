"""Files from anywhere -> pixels, in a process of their own: a file that crashes the decoder costs its row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.search.sidecars import IMAGES
from webdistill.core.errors import UserError
from webdistill.images.gate import Rejected, decode, open_image
from webdistill.images.pool import square
from webdistill.images.workers import Workers

SUFFIXES = {f".{ending}" for ending in IMAGES}  # of files that are looked for in folders
MAX_PIXELS = 100_000_000  # read from the header, before decoding
MAX_BYTES = 200_000_000
MEMORY = 4 << 30  # bytes that decoding one picture may take
BATCH = 32  # pictures at a time

Pixels = NDArray[np.uint8]
Item = tuple[Path, int]  # file, side in px


def listed(given: Sequence[Path]) -> list[Path]:
    """Files as they are given, folders as the pictures below them. Raises UserError for a folder without any."""
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not inside:
            raise UserError(f"{path} holds no file named {', '.join(sorted(SUFFIXES))}")
        found += inside
    return found


def batches(
    paths: Sequence[Path], size: int
) -> Iterator[tuple[Sequence[Path], list[Pixels | str]]]:
    """A few files at a time, each as pixels [size, size, 3] or as the reason why not."""
    with Workers(1, read, crashed, MEMORY) as process:
        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            yield part, asyncio.run(process.apply([(path, size) for path in part]))


def read(item: Item) -> Pixels | str:
    """Through the pool's own gate: upright, RGB over white, shorter side to `size`, the centre of it."""
    path, size = item
    try:
        if not path.is_file():  # a pipe would be waited for
            return "is no file" if path.exists() else "does not exist"
        if (weight := path.stat().st_size) > MAX_BYTES:
            return f"{weight:,} bytes are more than {MAX_BYTES:,}"
        stored = open_image(path.read_bytes(), MAX_PIXELS, size)
        return np.asarray(square(decode(stored.image), size))
    except Rejected as refused:
        return f"{refused.status.replace('_', ' ')}: {refused.detail}"
    except MemoryError:
        return "takes too much memory"
    except OSError as error:
        return error.strerror or "cannot be read"


def crashed(_: Item) -> Pixels | str:
    """Stands in for a picture whose process died or took too long."""
    return "crashes the decoder"
