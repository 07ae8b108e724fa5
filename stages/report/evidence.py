"""Everything the page shows, read once from the outputs of the other stages."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.report.columns import Columns, Names, batches, names, words
from stages.report.pictures import Album
from webdistill.core.errors import UserError
from webdistill.core.files import MANIFEST, read_json, read_table
from webdistill.experiments import Kept

# Images dropped for these reasons are shown to nobody.
HIDDEN = ("opt_out", "takedown", "unsafe", "punsafe", "nsfw")
SCORES = ["query", "query_class", "clip_class", "score", "margin"]  # of embed; classes are places


@dataclass(frozen=True)
class Shard:
    """A file of the pool."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Collected:
    """The pool and what every stage said about its images, as columns."""

    ledger: pa.Table
    scores: Columns  # query, query_class, clip_class, score, margin, width, height
    kept: Columns  # ids alone
    dropped: Columns  # reason, value against threshold, other: the image that it repeats, or b""
    teacher: Columns  # label, confidence (softmax), entropy of its probabilities in nats
    selected: Columns  # label, confidence
    nearest: Mapping[int, Names]  # prototype -> its images, nearest first
    pool: Album
    tests: Album
    shards: Sequence[Shard]  # of the pool

    @cached_property
    def hidden(self) -> Columns:
        """Ids of images that must not be shown."""
        return Columns(self.dropped.ids[np.isin(self.dropped["reason"], HIDDEN)])


@dataclass(frozen=True)
class Confounder:
    """A prototype of the student's compensation, as distill measured it."""

    prototype: int
    attention: float  # mean share over images, and its standard deviation
    spread: float
    push: float  # root mean square change of the logits at one standard deviation more
    moves: Sequence[tuple[str, float]]  # class -> change of its logit, the most lowered first
    asking: Sequence[str]  # ids of the images that ask for it most


@dataclass(frozen=True)
class Measured:
    """The student's training curve and its figures on the test set."""

    figures: Mapping[str, float]
    curve: Mapping[str, Sequence[tuple[float, float]]]
    choices: Mapping[str, Sequence[tuple[float, float]]]  # selection_history.csv, by epoch
    per_class: Sequence[Mapping[str, str]]
    confusion: Sequence[Sequence[int]]  # [actual][predicted]
    calibration: Sequence[tuple[float, float, int]]
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    pictures: Mapping[str, bytes]  # of the training, file name -> PNG
    confounders: Sequence[Confounder] = ()


@dataclass(frozen=True)
class Evidence:
    """What the page is made of."""

    classes: Sequence[str]
    collected: Collected
    measured: Measured
    params: Mapping[str, Any]
    flat: Mapping[str, str]  # the same as text: "distill.epochs" -> "60"
    inputs: Mapping[str, str]  # path -> sha256
    kept: Sequence[Kept]  # earlier experiments
    truth: pa.Table | None


def read_drops(path: Path) -> Columns:
    """The rows of dropped.parquet."""
    table = read_table(path, ["id", "reason", "value", "threshold", "other"])
    return Columns(
        names(table["id"]),
        reason=words(table["reason"]),
        value=table["value"].to_numpy().astype(float),
        threshold=table["threshold"].to_numpy().astype(float),
        other=names(pc.fill_null(table["other"], "")),
    )


def read_facts(scores: Path, pool: Sequence[Path]) -> Columns:
    """The columns of scores.parquet with width and height of the pool."""
    table = read_table(scores, ["id", *SCORES])
    ids = names(table["id"])
    shapes = [read_table(path, ["id", "width", "height"]) for path in pool]
    sizes = pa.concat_tables(shapes) if shapes else None
    found = Columns(
        ids,
        query=words(table["query"]),
        **{name: table[name].to_numpy() for name in SCORES[1:]},
    )
    return found if sizes is None else _with_sizes(found, sizes)


def read_teacher(shards: Sequence[Path]) -> Columns:
    """The teacher's verdict on every image of the pool."""
    ids: list[Names] = []
    found: list[tuple[np.ndarray, ...]] = []
    for path in shards:
        for batch in batches(path, ["id", "logits"]):
            ids.append(names(batch.column("id")))
            found.append(_verdicts(batch.column("logits")))
    columns = [np.concatenate(part) for part in zip(*found, strict=True)] or [np.empty(0)] * 3
    label, confidence, entropy = columns
    return Columns(
        np.concatenate(ids) if ids else np.empty(0, "S1"),
        label=label.astype(np.int32),
        confidence=confidence,
        entropy=entropy,
    )


def _verdicts(column: pa.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(class, its probability, entropy) [n] of the logits [n, K]."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    logits = flat.astype(np.float64).reshape(-1, column.type.list_size)
    top = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - top)
    shares = weights / weights.sum(axis=1, keepdims=True)
    # -sum p log p, with log p = (z - max z) - log sum exp(z - max z), finite where p is 0
    logs = (logits - top) - np.log(weights.sum(axis=1, keepdims=True))
    return logits.argmax(axis=1), shares.max(axis=1), -(shares * logs).sum(axis=1)


def read_selected(path: Path) -> Columns:
    """Teacher class and confidence of the training images."""
    table = read_table(path, ["id", "teacher_class", "confidence"])
    return Columns(
        names(table["id"]),
        label=table["teacher_class"].to_numpy(),
        confidence=table["confidence"].to_numpy().astype(float),
    )


def read_nearest(path: Path) -> dict[int, Names]:
    """Prototype -> ids of its images, nearest first (then by id)."""
    table = read_table(path, ["id", "prototype", "distance"])
    ids, prototype = names(table["id"]), table["prototype"].to_numpy()
    order = np.lexsort((ids, table["distance"].to_numpy(), prototype))
    ids, prototype = ids[order], prototype[order]
    numbers, starts = np.unique(prototype, return_index=True)
    ends = np.append(starts[1:], len(ids))
    return {int(n): ids[a:b] for n, a, b in zip(numbers, starts, ends[: len(starts)], strict=True)}


def _with_sizes(facts: Columns, sizes: pa.Table) -> Columns:
    shapes = Columns(
        names(sizes["id"]), **{name: sizes[name].to_numpy() for name in ("width", "height")}
    )
    columns = {name: facts[name] for name in SCORES}
    for name in ("width", "height"):
        columns[name] = shapes.of(facts.ids, name, 0)
    return Columns(facts.ids, **columns)


def read_shards(pool: Path) -> list[Shard]:
    """The files of the pool, from the manifest that was checked when it was opened."""
    entries = sorted(read_json(pool / MANIFEST).items())
    return [Shard(name, entry["bytes"], entry["sha256"]) for name, entry in entries]


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file. Raises UserError when a column is missing."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise UserError(f"{path} has no column '{missing[0]}'; rebuild it")
        return list(reader)


def read_curve(path: Path) -> dict[str, list[tuple[float, float]]]:
    """curve.csv -> {column: [(epoch, value)]}; empty and non-numeric cells are left out."""
    curve: dict[str, list[tuple[float, float]]] = {}
    for row in read_csv(path, ["epoch"]):
        epoch = _number(row.pop("epoch"))
        for name, cell in row.items():
            value = _number(cell)
            if name and math.isfinite(epoch) and math.isfinite(value):
                curve.setdefault(name, []).append((epoch, value))
    return curve


def read_confounders(path: Path) -> list[Confounder]:
    """confounders.csv; it has no row without a compensation, or where no image differs from another in it."""
    found = []
    for row in read_csv(path, ["prototype", "attention", "spread", "push", "asking"]):
        moves = [(n.removeprefix("class/"), float(row[n])) for n in row if n.startswith("class/")]
        moves.sort(key=lambda item: item[1])
        found.append(
            Confounder(
                prototype=int(row["prototype"]),
                attention=float(row["attention"]),
                spread=float(row["spread"]),
                push=float(row["push"]),
                moves=moves,
                asking=row["asking"].split(),
            )
        )
    return found


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def read_confusion(path: Path, classes: Sequence[str]) -> list[list[int]]:
    """confusion.csv (one row per image) -> counts [actual][predicted]."""
    index = {name: i for i, name in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for row in read_csv(path, ["actual", "predicted"]):
        if row["actual"] not in index or row["predicted"] not in index:
            raise UserError(
                f"{path} names a class that task.classes does not; run `dvc repro evaluate`"
            )
        counts[index[row["actual"]]][index[row["predicted"]]] += 1
    return counts


def read_measured(
    outputs: Mapping[str, Path],
    curve: Path,
    choices: Path,
    student: Path,
    teacher: Path,
    pictures: Path,
    confounders: Path,
    classes: Sequence[str],
) -> Measured:
    """The outputs of evaluate by name; those of distill; both cards."""
    bins = read_csv(outputs["calibration.csv"], ["confidence", "accuracy", "count"])
    return Measured(
        figures=read_json(outputs["metrics.json"]),
        curve=read_curve(curve),
        choices=read_curve(choices),
        per_class=read_csv(
            outputs["per_class.csv"], ["class", "accuracy", "count", "teacher_accuracy"]
        ),
        confusion=read_confusion(outputs["confusion.csv"], classes),
        calibration=[(float(b["confidence"]), float(b["accuracy"]), int(b["count"])) for b in bins],
        student=read_json(student),
        teacher=read_json(teacher),
        pictures={path.name: path.read_bytes() for path in sorted(pictures.glob("*.png"))},
        confounders=read_confounders(confounders),
    )
