"""What each way to store a picture costs, and what a teacher makes of it.

    python -m benchmarks.formats --images FILE [--teacher FOLDER] [--sides 32 64 256] [--count 2000] [--out FILE]

The pictures are shrunk as the stage `fetch` does, encoded, decoded again, and given to the teacher as the stage `score`
gives them. Processor milliseconds are the least of `--repeat` rounds, in turns.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.children import progress
from benchmarks.image_server import encoded_images
from stages.score.teacher import View, forward
from webdistill.core.errors import UserError
from webdistill.images.pool import square
from webdistill.images.stored import JPEG_QUALITY, WEBP_METHOD, WEBP_QUALITY
from webdistill.models.checkpoint import Network, load_network

T = TypeVar("T")
V = TypeVar("V")
LOSSLESS = f"WebP, lossless, method {WEBP_METHOD}"
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    LOSSLESS: ("WEBP", {"lossless": True, "method": WEBP_METHOD, "quality": WEBP_QUALITY}),
    "WebP, lossless, method 1": ("WEBP", {"lossless": True, "method": 1, "quality": 20}),
    "WebP, lossy, quality 95": ("WEBP", {"quality": 95, "method": 0}),
    f"JPEG, quality {JPEG_QUALITY}": ("JPEG", {"quality": JPEG_QUALITY, "subsampling": 0}),
    "JPEG, quality 95": ("JPEG", {"quality": 95, "subsampling": 0}),
    "PNG, level 1": ("PNG", {"compress_level": 1}),
}


@dataclass(frozen=True)
class Row:
    """One format at one size; `agreement`: same class as of the lossless pixels; `shift`: root mean squared change of a
    logit over the standard deviation of all logits. None without a teacher."""

    side: int
    format: str
    bytes: float
    encode_ms: float
    decode_ms: float
    squared_error: float  # of 8-bit pixels
    agreement: float | None = None
    shift: float | None = None


def shrunk(data: bytes, side: int) -> Image.Image:
    """RGB with a shorter side of at most `side` px."""
    with Image.open(io.BytesIO(data)) as image:
        return square(image.convert("RGB"), min(side, *image.size))


def encode(image: Image.Image, name: str) -> bytes:
    kind, options = FORMATS[name]
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def timed(work: Callable[[T], V], items: Sequence[T]) -> tuple[float, list[V]]:
    """Seconds of the processor, and what comes out."""
    begun = time.process_time()
    found = [work(item) for item in items]
    return time.process_time() - begun, found


def measure(files: Sequence[bytes], side: int, repeat: int, teacher: Network | None) -> list[Row]:
    """A row per format."""
    images = [shrunk(data, side) for data in files]
    stored: dict[str, list[bytes]] = {}
    pixels: dict[str, list[NDArray[np.uint8]]] = {}
    cost = {name: [np.inf, np.inf] for name in FORMATS}
    for _ in range(repeat):
        for name in FORMATS:
            into, stored[name] = timed(partial(encode, name=name), images)
            back, pixels[name] = timed(decode, stored[name])
            cost[name] = [min(cost[name][0], into), min(cost[name][1], back)]
    plain = [np.asarray(image) for image in images]
    expected = answers(teacher, plain) if teacher is not None else None
    rows = []
    for name, data in stored.items():
        found = pixels[name]
        error = np.mean(
            [np.square(a.astype(float) - b).mean() for a, b in zip(found, plain, strict=True)]
        )
        into, back = (1000 * value / len(images) for value in cost[name])
        size = float(np.mean([len(one) for one in data]))
        judged: tuple[float, ...] = ()
        if teacher is not None and expected is not None:
            judged = compared(expected, answers(teacher, found))
        rows.append(Row(side, name, size, into, back, float(error), *judged))
        progress(f"{side} px: {name}")
    return rows


def answers(teacher: Network, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Logits [N, K]."""
    card = teacher.card
    view = View(
        card.sha256, card.architecture, card.image_size, card.mean, card.std, "float32", 256
    )
    squares = np.stack(
        [np.asarray(square(Image.fromarray(one), card.image_size)) for one in pixels]
    )
    return np.concatenate([logits for logits, _ in forward(teacher, view, squares)]).astype(float)


def compared(expected: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float]:
    """(agreement, shift)"""
    same = float((expected.argmax(1) == found.argmax(1)).mean())
    return same, float(np.sqrt(np.square(found - expected).mean()) / expected.std())


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        (
            "| px | stored as | bytes | encode, CPU ms | decode, CPU ms | squared error | "
            "teacher's class stays | logits move |"
        ),
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        same = "" if row.agreement is None else f"{row.agreement:.2%}"
        moved = "" if row.shift is None else f"{row.shift:.2%}"
        numbers = f"{row.bytes:,.0f} | {row.encode_ms:.2f} | {row.decode_ms:.2f} | {row.squared_error:.2f}"
        lines.append(f"| {row.side} | {row.format} | {numbers} | {same} | {moved} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.formats",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="FILE", help="Parquet, encoded, in `image`")
    add("--teacher", type=Path, metavar="FOLDER", help="default: none is asked")
    add("--sides", type=int, nargs="+", default=[32, 64], metavar="PX", help="(%(default)s)")
    add("--count", type=int, default=2000, metavar="N", help="pictures (%(default)s)")
    add("--repeat", type=int, default=3, metavar="N", help="rounds (%(default)s)")
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON too")
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    teacher = load_network(chosen.teacher) if chosen.teacher else None
    files = encoded_images(chosen.images, chosen.count)
    rows = [row for side in chosen.sides for row in measure(files, side, chosen.repeat, teacher)]
    print(f"{len(files):,} pictures of {chosen.images}\n\n{table(rows)}")
    if chosen.out:
        chosen.out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
