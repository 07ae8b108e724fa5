"""A small web with known truth, made of CIFAR-10 train images that the teacher never saw.

    python -m pipelines.quickstart_data.web

Writes data/quickstart/web.parquet, what a keyword search would have returned, and truth.parquet, what each row
really is. Same source, params and library versions: same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pipelines.quickstart_data import damage
from pipelines.quickstart_data.candidates import Candidate, Source, copies, leaks, maker
from pipelines.quickstart_data.classes import CLASSES
from pipelines.quickstart_data.listing import listing
from pipelines.quickstart_data.stock import Stock, apportion, long_tail, twins
from pipelines.quickstart_data.test_set import choose, image_id
from webdistill.core.files import write_table
from webdistill.harness.params import read_yaml

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "data" / "quickstart"

KINDS = (
    "clean", "shifted", "opt_out", "tiny", "wrong_keyword", "junk", "exact_duplicate", "near_duplicate",
    "test_leak", "broken", "truncated", "oversized", "not_image",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Section `web` of params.yaml; meanings are written there."""

    seed: int
    first_image: int
    imbalance: float
    twin_similarity: float
    look_alikes: float
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if set(self.counts) != set(KINDS):
            raise ValueError(
                f"web.counts has the keys {sorted(self.counts)}, expected {sorted(KINDS)}"
            )


def build(
    source: Source, usable: NDArray[np.int64], settings: Settings
) -> tuple[pa.Table, pa.Table]:
    """Source images at positions `usable` may be used -> the candidate list and the truth, shuffled alike."""
    rows: list[Candidate] = []
    shares = long_tail(len(CLASSES), settings.imbalance, np.random.default_rng([settings.seed, 1]))
    stock = Stock(usable, source.labels, len(CLASSES), np.random.default_rng([settings.seed, 2]))
    for place, kind in enumerate(KINDS):
        rngs = _generators(settings.seed, place)
        count = settings.counts[kind]
        if kind in ("exact_duplicate", "near_duplicate"):
            rows += copies(
                rows, kind, count, np.random.default_rng([settings.seed, 3, place]), rngs
            )
            continue
        if kind == "test_leak":
            rows += leaks(source, count, np.random.default_rng([settings.seed, 3, place]), rngs)
            continue
        make = maker(kind, source, stock, settings.look_alikes)
        for keyword, number in enumerate(apportion(count, shares)):
            rows += [make(keyword, next(rngs)) for _ in range(number)]
    return _tables(_shuffled(rows, np.random.default_rng([settings.seed, 4])), settings.seed)


def _generators(seed: int, place: int) -> Iterator[Generator]:
    """One generator per row, so that changing one kind or count leaves the other kinds as they are."""
    number = 0
    while True:
        yield np.random.default_rng([seed, 5, place, number])
        number += 1


def _shuffled(rows: list[Candidate], rng: Generator) -> list[Candidate]:
    """Random order, but in every family of copies the original comes first; parents are renumbered."""
    place = rng.permutation(len(rows))
    families: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row.parent >= 0:
            families.setdefault(row.parent, [row.parent]).append(number)
    for members in families.values():
        first = min(members, key=lambda number: place[number])
        place[[members[0], first]] = place[[first, members[0]]]
    order = np.argsort(place)
    return [
        replace(rows[i], parent=int(place[rows[i].parent])) if rows[i].parent >= 0 else rows[i]
        for i in order
    ]


def _tables(rows: list[Candidate], seed: int) -> tuple[pa.Table, pa.Table]:
    listings = [
        listing(
            number,
            CLASSES[row.keyword],
            damage.sniff(row.data),
            np.random.default_rng([seed, 6, number]),
        )
        for number, row in enumerate(rows)
    ]
    web = pa.table(
        {
            "url": [item.url for item in listings],
            "image": pa.array([row.data for row in rows], pa.binary()),
            "query": [CLASSES[row.keyword] for row in rows],
            "caption": [item.caption for item in listings],
            "licence": [item.licence for item in listings],
            "licence_url": [item.licence_url for item in listings],
            "creator": [item.creator for item in listings],
            "landing_page": [item.landing_page for item in listings],
            "opt_out": [row.opt_out for row in rows],
        }
    )
    truth = pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "kind": [row.kind for row in rows],
            "true_class": pa.array([row.true_class for row in rows], pa.int32()),
            "keyword_right": [row.true_class == row.keyword for row in rows],
            "shift": [row.shift for row in rows],
            "duplicate_of": pa.array([row.parent for row in rows], pa.int64()),
            "test_id": [row.test_id for row in rows],
            "source": pa.array([row.source for row in rows], pa.int32()),
        }
    )
    return web, truth


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = read_yaml(HERE / "params.yaml")
    settings = Settings(**params["web"])
    data = load_file(HERE / "work" / "cifar10.safetensors")
    test = choose(data["test_labels"], params["test_set"]["per_class"], params["test_set"]["seed"])
    images = data["train_images"]
    fresh = images[settings.first_image :]
    lonely = ~twins(fresh, data["test_images"], settings.twin_similarity)
    source = Source(
        images,
        data["train_labels"],
        data["test_images"][test],
        data["test_labels"][test],
        [image_id(pixels) for pixels in data["test_images"][test]],
        load_file(HERE / "work" / "digits.safetensors")["digits"],
    )
    web, truth = build(source, np.flatnonzero(lonely) + settings.first_image, settings)
    OUT.mkdir(parents=True, exist_ok=True)
    write_table(web, OUT / "web.parquet")
    write_table(truth, OUT / "truth.parquet")
    print(
        f"{OUT}: {len(web):,} candidates; {int((~lonely).sum())} source images left out as natural twins"
    )


if __name__ == "__main__":
    main()
