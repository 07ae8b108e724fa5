"""Everything the page shows, read once from the outputs of the other stages."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.report.pictures import Album
from webdistill.core.errors import UserError
from webdistill.core.files import MANIFEST, read_json, read_table
from webdistill.kept import Kept

HIDDEN = ("opt_out", "takedown", "unsafe")  # images dropped for these reasons are shown to nobody
SCORES = (
    "query",
    "query_class",
    "clip_class",
    "score",
    "margin",
)  # of embed; classes are places in task.classes


@dataclass(frozen=True)
class Drop:
    """One image the filter dropped; `value` against `threshold` decided, `other` is the image it repeats."""

    id: str
    reason: str
    value: float
    threshold: float
    other: str


@dataclass(frozen=True)
class Verdict:
    """The teacher's class of an image, its softmax probability, and the entropy of all of them in nats."""

    label: int
    confidence: float
    entropy: float = math.nan  # of the pool's images only


@dataclass(frozen=True)
class Shard:
    """A file of the pool."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Collected:
    """The pool and what every stage said about its images; maps go from id."""

    ledger: pa.Table
    scores: Mapping[
        str, Mapping[str, Any]
    ]  # query, query_class, clip_class, score, margin, width, height
    kept: Sequence[str]
    dropped: Sequence[Drop]
    teacher: Mapping[str, Verdict]
    selected: Mapping[str, Verdict]
    nearest: Mapping[int, Sequence[str]]  # prototype -> its images, nearest first
    pool: Album
    tests: Album
    shards: Sequence[Shard]  # of the pool

    @property
    def hidden(self) -> set[str]:
        """Ids of images that must not be shown."""
        return {drop.id for drop in self.dropped if drop.reason in HIDDEN}


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


def read_drops(path: Path) -> list[Drop]:
    """The rows of dropped.parquet."""
    table = read_table(path, ["id", "reason", "value", "threshold", "other"])
    return [Drop(**row) for row in table.to_pylist()]


def read_facts(scores: Path, pool: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """id -> the columns of scores.parquet with width and height of the pool."""
    rows = read_table(scores, ["id", *SCORES]).to_pylist()
    facts = {row.pop("id"): row for row in rows}
    for path in pool:
        for row in read_table(path, ["id", "width", "height"]).to_pylist():
            facts.setdefault(row["id"], {}).update(width=row["width"], height=row["height"])
    return facts


def read_teacher(shards: Sequence[Path]) -> dict[str, Verdict]:
    """The teacher's verdict on every image of the pool."""
    found: dict[str, Verdict] = {}
    for path in shards:
        table = read_table(path, ["id", "logits"])
        width = table.schema.field("logits").type.list_size
        flat = table.column("logits").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        logits = flat.astype(np.float64).reshape(-1, width)
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        shares = weights / weights.sum(axis=1, keepdims=True)
        # -sum p log p, with log p = (z - max z) - log sum exp(z - max z), finite where p is 0
        logs = (logits - top) - np.log(weights.sum(axis=1, keepdims=True))
        entropy = -(shares * logs).sum(axis=1)
        columns = (logits.argmax(axis=1), shares.max(axis=1), entropy)
        for name, label, confidence, nats in zip(
            table.column("id").to_pylist(), *columns, strict=True
        ):
            found[name] = Verdict(int(label), float(confidence), float(nats))
    return found


def read_selected(path: Path) -> dict[str, Verdict]:
    """id -> teacher class and confidence of the training images."""
    rows = read_table(path, ["id", "teacher_class", "confidence"]).to_pylist()
    return {row["id"]: Verdict(row["teacher_class"], row["confidence"]) for row in rows}


def read_nearest(path: Path) -> dict[int, list[str]]:
    """Prototype -> ids of its images, nearest first (then by id)."""
    rows = read_table(path, ["id", "prototype", "distance"]).to_pylist()
    rows.sort(key=lambda row: (row["prototype"], row["distance"], row["id"]))
    found: dict[int, list[str]] = {}
    for row in rows:
        found.setdefault(row["prototype"], []).append(row["id"])
    return found


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
    classes: Sequence[str],
) -> Measured:
    """The outputs of evaluate by name; curve, selection history and pictures of distill; both cards."""
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
    )
