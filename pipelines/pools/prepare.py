"""Development data -> pools of very different quality, equally large, with a teacher and a labelled test set.

    python -m pipelines.pools.prepare

Reads the folder that `source` in params.yaml names; writes pipelines/pools/work/: lists/<pool>.parquet for `search`,
teacher/ and test/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.compare.prepare import development_data, write_teacher, write_test
from pipelines.pools import pictures
from pipelines.shared.program import run_study
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove, write_table

HERE = Path(__file__).parent
PACS = ("photo", "art_painting", "sketch")
THREE = ("bird", "frog", "truck")
# What Tiny-ImageNet calls the teacher's classes, or kinds of them; there is no horse.
NAMED = (
    "cat", "tabby", "chihuahua", "retriever", "terrier", "shepherd", "poodle", "bullfrog", "tailed frog", "goose",
    "albatross", "king penguin", "black stork", "gazelle", "beach wagon", "convertible", "limousine", "sports car",
    "moving van", "police van", "lifeboat", "gondola",
)  # fmt: skip
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Encoded pictures and the words that stand beside them; `answers`: the teacher's probabilities [N, K]."""

    data: list[bytes]
    words: list[str]
    answers: NDArray[np.float64] | None = None

    def take(self, rows: Rows) -> Images:
        return Images([self.data[row] for row in rows], [self.words[row] for row in rows])


def sources(root: Path, settings: Mapping[str, Any]) -> Mapping[str, Callable[[], Images]]:
    """Name under `from` -> what reads its images, shuffled where they come in an order."""

    def tiny() -> Images:
        parts, missing = [], settings["candidates"]
        for shard in sorted((root / "tinyimagenet64").glob("train-*.parquet")):
            parts.append(read_table(shard, ["image", "words"]).slice(0, missing))
            missing -= parts[-1].num_rows
        return images(pa.concat_tables(parts), "words")

    def shuffled(path: Path, words: str, domain: str | None = None) -> Images:
        table = read_table(path)
        if domain is not None:
            table = table.filter(pa.compute.equal(table["domain"], domain))
        order = np.random.default_rng(settings["seed"]).permutation(table.num_rows)
        return images(table.take(pa.array(order)), words)

    caltech = root / "caltech101" / "caltech101_s64.parquet"
    pacs = root / "pacs" / "pacs_s64.parquet"
    return {
        "tiny": tiny,
        "caltech": lambda: shuffled(caltech, "query"),
        **{name: (lambda name=name: shuffled(pacs, "class", name)) for name in PACS},
    }


def images(table: pa.Table, words: str) -> Images:
    return Images(table["image"].to_pylist(), table[words].to_pylist())


def chosen(found: Images, rule: str, count: int, classes: list[str]) -> Rows:
    """Rows of the images that a rule takes, at most `count` of them; `first` takes what comes first."""
    if rule == "first":
        return np.arange(min(count, len(found.data)))
    if rule == "named":
        hits = [any(word in text.casefold() for word in NAMED) for text in found.words]
        return np.flatnonzero(hits)[:count]
    assert found.answers is not None
    sure, label = found.answers.max(axis=1), found.answers.argmax(axis=1)
    match rule:
        case "confident":
            return np.argsort(-sure, kind="stable")[:count]
        case "unsure":
            return np.argsort(sure, kind="stable")[:count]
        case "three":
            return np.flatnonzero(np.isin(label, [classes.index(name) for name in THREE]))[:count]
    raise UserError(f"choose: {rule} is unknown")


def make(
    spec: Mapping[str, Any], found: Images | None, count: int, classes: list[str], seed: int
) -> Images:
    """One pool: images chosen and changed, and noise for the rest."""
    rng = np.random.default_rng(seed)
    noises = round(count * spec.get("noise", 0.0))
    data: list[bytes] = []
    words: list[str] = []
    if found is not None:
        taken = found.take(chosen(found, spec.get("choose", "first"), count - noises, classes))
        change = spec.get("change")
        if change == "copies":
            few = taken.take(np.arange(count // pictures.COPIES))
            data = [copy for each in few.data for copy in pictures.copies(each, rng)]
            words = [word for word in few.words for _ in range(pictures.COPIES)]
        else:
            alter = {"blur": pictures.blurred, "noise": pictures.noisy, None: None}[change]
            data = [alter(each, rng) for each in taken.data] if alter else taken.data
            words = taken.words
    kind = spec.get("spectrum", "white")
    data = data + [pictures.noise(rng, pink=kind == "pink") for _ in range(noises)]
    if len(data) < 0.9 * count:
        raise UserError(f"there are {len(data)} images for a pool of {count}; raise candidates")
    return Images(data, words + [""] * noises)


def prepare(settings: Mapping[str, Any], root: Path, out: Path) -> None:
    """Write lists/, teacher/ and test/ below `out`. Raises UserError when the source is not there."""
    own = settings["prepare"]
    source = development_data(settings, root, "pools")
    classes = list(settings["common"]["task"]["classes"])
    remove(out)
    (out / "lists").mkdir(parents=True)
    write_teacher(source, own["teacher"], classes, out / "teacher")
    write_test(source, out / "test")
    readers, read = sources(source, own), dict[str, Images]()
    for name, spec in own["pools"].items():
        origin = spec.get("from")
        if origin is not None and origin not in read:
            found = readers[origin]()
            if origin == "tiny":
                answers = pictures.answers(out / "teacher", found.data)
                found = Images(found.data, found.words, answers)
            read[origin] = found
        made = make(spec, read.get(origin), own["images"], classes, own["seed"])
        table = pa.table({"image": made.data, "caption": made.words})
        write_table(table, out / "lists" / f"{name}.parquet")


def main(settings: Mapping[str, Any]) -> None:
    prepare(settings, HERE.parents[1], HERE / "work")


if __name__ == "__main__":
    run_study(main)
