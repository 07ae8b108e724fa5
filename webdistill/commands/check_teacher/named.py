"""Pictures whose class something names: the pool's keywords, or the folders that search.local reads. No test label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.search.keywords import Keywords
from stages.search.sidecars import IMAGES
from webdistill.core.files import read_table
from webdistill.harness.params import Params
from webdistill.images.gate import Rejected, decode, open_image
from webdistill.images.pool import load_images, square

ENDINGS = {f".{ending}" for ending in IMAGES}
MAX_PIXELS = 25_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """N pictures with the class that `source` gives them."""

    source: str
    images: NDArray[np.uint8]  # [N, S, S, 3]
    labels: NDArray[np.int64]  # [N]


def read(
    pool: Path, settings: Params, classes: Sequence[str], size: int, count: int
) -> Named | None:
    """At most `count`, of all classes alike: of the pool where it is, else of search.local. None: nothing names any."""
    if pool.is_dir():
        return of_pool(pool, classes, size, count)
    search = settings.raw["search"]
    local = Path(search["local"] or "")
    if not search["local"] or not local.is_dir():
        return None
    return of_folder(local, Keywords(classes, search["keywords"]), classes, size, count)


def of_pool(pool: Path, classes: Sequence[str], size: int, count: int) -> Named | None:
    """By the pool's column `query`."""
    number = {name: k for k, name in enumerate(classes)}
    pairs: list[tuple[str, int]] = []
    for shard in sorted(pool.glob("*.parquet")):
        if "query" not in pq.read_schema(shard).names:
            return None
        rows = read_table(shard, ["id", "query"]).to_pylist()
        pairs += [(row["id"], number[row["query"]]) for row in rows if row["query"] in number]
    chosen = alike(pairs, count)
    if not chosen:
        return None
    images = load_images(pool, [name for name, _ in chosen], size, workers=1)[1]
    return Named("the pool's keywords", images, np.array([k for _, k in chosen], np.int64))


def of_folder(
    folder: Path, keywords: Keywords, classes: Sequence[str], size: int, count: int
) -> Named | None:
    """By the nearest folder above each image that stands for a class, as `search` reads it."""
    number = {name: k for k, name in enumerate(classes)}
    pairs: list[tuple[Path, int]] = []
    for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS):
        parts = file.relative_to(folder.parent).parts[:-1]
        name = next((found for part in reversed(parts) if (found := keywords.class_of(part))), "")
        if name and file.is_file():
            pairs.append((file, number[name]))
    images, labels = [], []
    for file, label in alike(pairs, count):
        try:
            stored = open_image(file.read_bytes(), MAX_PIXELS, size)
        except (Rejected, MemoryError, OSError):  # `fetch` will say why
            continue
        images.append(np.asarray(square(decode(stored.image), size)))
        labels.append(label)
    if not images:
        return None
    return Named(f"the folders of {folder}", np.stack(images), np.array(labels, np.int64))


def alike(pairs: Iterable[tuple[T, int]], count: int) -> list[tuple[T, int]]:
    """`count` of the pairs at most, as many of each class as there are, spread over all; always the same ones."""
    by_class: dict[int, list[tuple[T, int]]] = {}
    for pair in pairs:
        by_class.setdefault(pair[1], []).append(pair)
    random = np.random.default_rng(0)
    rounds = [[own[i] for i in random.permutation(len(own))] for _, own in sorted(by_class.items())]
    most = max(map(len, rounds), default=0)
    return [own[n] for n in range(most) for own in rounds if n < len(own)][:count]
