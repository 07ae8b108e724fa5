"""What the rules look at, read from the outputs of the stages before, in the order of the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.filter import listed
from stages.filter.calibration import threshold
from stages.filter.closer import Large
from stages.filter.licences import licence_code
from stages.filter.rules import Doubles
from stages.filter.thumbnails import SIDE, Pictures, Thumbnails, read_pictures, shrink
from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.harness.stage import Stage
from webdistill.images.hashes import Bytes
from webdistill.images.pool import load_images
from webdistill.takedown import Takedown, look_up, read_takedown

ADDRESSES = ("url", "landing_page", "file", "origin")


@dataclass(frozen=True)
class Papers:
    """What the ledger says of the pool's images."""

    taken_down: Mapping[str, int]  # id -> line of takedown.txt
    idle: Sequence[int]  # lines of takedown.txt that mean no candidate
    refused: Mapping[str, str]  # id -> its opt-out
    licences: Sequence[str]  # code of each image, "" = not stated


@dataclass(frozen=True)
class Evidence:
    """Everything by image, in pool order; the test images beside it."""

    pictures: Pictures
    papers: Papers
    score: Doubles  # CLIP cosine to the class of its keyword
    margin: Doubles  # minus that to the best other class
    min_score: float  # the thresholds of both
    min_margin: float
    keyword: NDArray[np.int64]  # class that its keyword names, -1 = none
    unsafe: Doubles | None  # probability; None when not asked for
    listed: Mapping[str, Doubles]  # what lists state, by their column; those that are asked for
    test_ids: Sequence[str]
    test: Bytes
    large: tuple[Large, Large]  # pool and test images for a second look
    embeddings: Sequence[Path]  # shards; none when not asked for


def gather(stage: Stage, thumbnails: Thumbnails, large: tuple[Large, Large]) -> Evidence:
    """Fills `thumbnails`. Raises UserError when the inputs do not belong together."""
    task, settings = stage.task, stage.params
    takedown = read_takedown(stage.input("takedown.txt"))
    pool = stage.input("data/fetch/pool")
    ledger = stage.input("data/fetch/ledger.parquet")
    scored = stage.input("data/embed/scores.parquet")
    shards: list[Path] = []
    if settings.embedding_neighbours:
        shards = sorted(stage.input("data/embed/embeddings").glob("*.parquet"))
    test_ids, test = load_images(stage.input(task.test_images), None, SIDE, task.threads)
    pictures = read_pictures(shrink(stage, pool), thumbnails)
    papers = read_papers(ledger, pictures.ids, takedown)
    stated: dict[str, Doubles] = {}
    if asked := listed.asked(settings):
        columns = read_table(ledger, ["id", "status", "url"])
        candidates = stage.input("data/search/candidates.parquet")
        stated = listed.read_listed(candidates, columns, pictures.ids, asked)
    scores = read_table(scored, ["id", "score", "margin", "query_class"])
    if scores["id"].to_pylist() != pictures.ids:
        raise UserError(
            "data/embed/scores.parquet is of another pool than data/fetch/pool; run `dvc repro filter`"
        )
    return Evidence(
        pictures=pictures,
        papers=papers,
        score=scores["score"].to_numpy().astype(np.float64),
        margin=scores["margin"].to_numpy().astype(np.float64),
        min_score=threshold(settings.min_score, scored, "score"),
        min_margin=threshold(settings.min_margin, scored, "margin"),
        keyword=scores["query_class"].to_numpy().astype(np.int64),
        unsafe=read_unsafe(scored) if settings.max_unsafe < 1 else None,
        listed=stated,
        test_ids=test_ids,
        test=test,
        large=large,
        embeddings=shards,
    )


def read_papers(path: Path, ids: Sequence[str], takedown: Takedown) -> Papers:
    """Opt-outs and takedowns count at any candidate of an image, the licence at the one that brought it."""
    columns = ["id", "status", "opt_out", "licence", "licence_url"]
    if takedown.sha256:
        columns.append("sha256")
    if takedown.address or takedown.host or takedown.below:
        columns += ADDRESSES
    ledger = read_table(path, columns)
    brought = ledger.filter(pc.equal(ledger["status"], "ok"))
    if brought["id"].to_pylist() != list(ids):
        raise UserError(f"{path} is of another pool than data/fetch/pool; run `dvc repro filter`")
    lines, idle = look_up(takedown, ledger)
    return Papers(lines, idle, _refused(ledger), _licences(brought))


def read_unsafe(path: Path) -> Doubles:
    """The column that embed fills when it is given texts. Raises UserError when it was given none."""
    column = read_table(path, ["unsafe"])["unsafe"]
    if column.null_count:
        raise UserError(
            "filter.max_unsafe is below 1, but embed compared the images with no unsafe texts; "
            "set embed.unsafe_texts, or filter.max_unsafe: 1.0"
        )
    return np.asarray(column.to_numpy(), np.float64)


def _refused(ledger: pa.Table) -> dict[str, str]:
    some = ledger.filter(
        pc.and_(pc.not_equal(ledger["opt_out"], ""), pc.not_equal(ledger["id"], ""))
    )
    found: dict[str, str] = {}
    for name, why in zip(some["id"].to_pylist(), some["opt_out"].to_pylist(), strict=True):
        found.setdefault(name, why)
    return found


def _licences(rows: pa.Table) -> list[str]:
    stated = zip(rows["licence"].to_pylist(), rows["licence_url"].to_pylist(), strict=True)
    return [licence_code(text or "", url or "") for text, url in stated]
