"""What the second look at near-duplicates says of real pictures of 144 px, and of copies of them that were damaged.

    python -m benchmarks.near_duplicates [--source FILE] [--pairs 300] [--copies 60] [--out FILE]

`--source` has the columns `image` and `class`. Pairs: those that the first look finds at 0.88, by similarity; of each
range at most so many are looked at. Copies: how many of the first look's finds the second confirms.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from stages.filter.closer import DOUBT, SAME
from webdistill.core.files import write_json
from webdistill.images.copies import find_pairs
from webdistill.images.details import SIDE, details
from webdistill.images.hashes import Doubles, Floats, luminance
from webdistill.images.pool import square

FIRST = 0.88
RANGES = (0.88, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1.01)
Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """A part, in shares of the sides."""
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


CHANGES: dict[str, Change] = {
    "shrunk": lambda i: i.resize((i.width // 2, i.height // 2), Image.Resampling.BICUBIC),
    "mirrored": lambda i: jpeg(ImageOps.mirror(i), 50),
    "recompressed": lambda i: jpeg(i, 20),
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "flatter": lambda i: ImageEnhance.Contrast(i).enhance(0.7),
    "gray": lambda i: i.convert("L").convert("RGB"),
    "blurred": lambda i: i.filter(ImageFilter.GaussianBlur(1)),
    "framed": lambda i: ImageOps.expand(i, i.width // 14, (255, 255, 255)),
    "cropped": lambda i: cut(i, 0.02, 0.04, 0.95, 0.97),
    "stretched": lambda i: i.resize((i.width, round(i.height * 0.95)), Image.Resampling.BICUBIC),
}
ALL: Change = lambda i: jpeg(  # noqa: E731  (a change like the others)
    ImageEnhance.Brightness(cut(ImageOps.mirror(i), 0.04, 0.03, 0.96, 0.95)).enhance(0.85).resize((100, 100)), 40
)  # fmt: skip


def gray(images: list[Image.Image]) -> Floats:
    """Luminance [N, SIDE, SIDE]."""
    return luminance(np.stack([np.asarray(square(image, SIDE)) for image in images]))


def small(images: list[Image.Image]) -> np.ndarray:
    """Thumbnails of the first look."""
    return np.stack([np.asarray(square(image, 32)) for image in images])


def looked(found: Doubles) -> tuple[int, float, float, float]:
    """-> pairs, shares with the similarity of a duplicate and of a leak, median."""
    return (
        len(found), float((found >= SAME).mean()), float((found >= DOUBT).mean()), float(np.median(found)),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parents[2] / "shared/data/office_caltech/office_caltech_s144.parquet"
    parser.add_argument("--source", type=Path, default=default)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--out", type=Path, help="the tables as JSON")
    chosen = parser.parse_args()
    table = pq.read_table(chosen.source, columns=["image", "class"])
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in table["image"].to_pylist()]
    classes, rng = np.array(table["class"].to_pylist()), np.random.default_rng(0)
    pairs = find_pairs(small(images), None, FIRST)
    rows: dict[str, tuple[float, ...]] = {}

    def look(places: np.ndarray) -> tuple[float, ...]:
        if not len(places):
            return 0, 0.0, 0.0, 0.0
        some = rng.permutation(places)[: chosen.pairs]
        sides = ([images[side[k]] for k in some] for side in (pairs.query, pairs.reference))
        return (len(places), *looked(details(*map(gray, sides)))[1:])

    for low, high in pairwise(RANGES):
        within = (pairs.similarity >= low) & (pairs.similarity < high)
        rows[f"similarity {low} to {min(high, 1.0)}"] = look(np.flatnonzero(within))
    other = classes[pairs.query] != classes[pairs.reference]
    rows["of different classes"] = look(np.flatnonzero(other))
    originals = [images[k] for k in rng.permutation(len(images))[: chosen.copies]]
    for name, change in {**CHANGES, "several at once": ALL}.items():
        copies = [change(image) for image in originals]
        first = find_pairs(small(copies), small(originals), FIRST)
        own = np.unique(first.query[first.query == first.reference])
        found = details(gray([copies[k] for k in own]), gray([originals[k] for k in own]))
        rows[f"copies, {name}"] = (len(own), *looked(found)[1:])
    print(f"{len(images):,} pictures of {chosen.source.name}; {chosen.copies} copies of each kind")
    print(f"\n| pairs | found at {FIRST} | confirmed as duplicates | as leaks | median |")
    print("|---|---:|---:|---:|---:|")
    for name, (count, same, doubt, median) in rows.items():
        print(f"| {name} | {count:,} | {100 * same:.1f} % | {100 * doubt:.1f} % | {median:.2f} |")
    if chosen.out:
        write_json(rows, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
