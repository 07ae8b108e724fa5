"""One image's provenance, joined from what the stages wrote. Every stage's files may be missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from webdistill.commands.provenance.identify import Named
from webdistill.commands.provenance.rows import Hit, Row, begins, equal, find, header, take
from webdistill.core.errors import UserError
from webdistill.takedown import spelling, spellings

CANDIDATES, LEDGER, POOL = "search/candidates.parquet", "fetch/ledger.parquet", "fetch/pool"
SCORES, TEACHER = "embed/scores.parquet", "score/teacher"
KEPT, DROPPED = "filter/kept.parquet", "filter/dropped.parquet"
SELECTION, ASSIGNMENT = "select/selection.parquet", "prototypes/assignment.parquet"
HISTORY, CHOICES = "distill/selection_history.parquet", "distill/selection_history.csv"
WITH_IDS = (POOL, SCORES, KEPT, DROPPED, TEACHER, SELECTION, ASSIGNMENT, HISTORY)
NAMED_BY = ("url", "file", "origin")  # columns by which `why` finds an address
Placed = tuple[int, Row]


@dataclass(frozen=True)
class Match:
    """One image, or the candidates with one address that brought none (`id` is "" then).

    `rows`: (place, row) in the ledger; in candidates.parquet where there is no ledger.
    """

    id: str
    rows: tuple[Placed, ...]


@dataclass(frozen=True)
class Provenance:
    """What each stage knows. None: the stage has not run here; {} or []: it has, and does not know the image."""

    id: str
    search: list[Row] | None
    fetch: list[Row] | None
    pool: Row | None
    embed: Row | None
    filter: Row | None
    score: Row | None
    select: Row | None
    prototypes: Row | None
    distill: Row | None


def matches(data: Path, wanted: Named) -> list[Match]:
    """The images that the name may mean, by id; at most one without an id, and that only where none has one.

    Raises UserError where no stage has left anything.
    """
    if not any((data / name).exists() for name in (CANDIDATES, LEDGER, *WITH_IDS)):
        raise UserError(
            f"{data} holds no output of any stage; run `dvc repro` or `dvc pull` first, or name the folder with --data"
        )
    rows = _candidates_named(data, wanted)
    ids = sorted({row["id"] for _, row in rows if row.get("id")})
    if ids:
        return [Match(name, tuple(p for p in rows if p[1]["id"] == name)) for name in ids]
    if rows:
        return [Match("", tuple(rows))]
    if wanted.kind == "id":
        return [Match(name, ()) for name in sorted(_ids_named(data, wanted.value))]
    return []


def provenance(data: Path, match: Match) -> Provenance:
    """Join the stages' files on the image's id."""
    rows = list(match.rows)
    ledger = data / LEDGER
    if (
        match.id and ledger.is_file()
    ):  # also what the name does not name: other addresses, same pixels
        rows = list(find(ledger, ["id"], equal("id", [match.id])))
    return Provenance(
        id=match.id,
        search=_search(data, rows),
        fetch=[row for _, row in rows] if ledger.is_file() else None,
        pool=_pool(data / POOL, match.id),
        embed=_embed(data / SCORES, match.id),
        filter=_filter(data, match.id),
        score=_score(data, match.id),
        select=_select(data, match.id),
        prototypes=_one(data / ASSIGNMENT, match.id),
        distill=_distill(data, match.id),
    )


def _candidates_named(data: Path, wanted: Named) -> list[Placed]:
    """Rows of the ledger, or of the candidates while there is no ledger."""
    ledger, candidates = data / LEDGER, data / CANDIDATES
    if ledger.is_file() and wanted.kind == "id":
        rows = list(find(ledger, ["id"], begins("id", wanted.value)))
    elif ledger.is_file() and wanted.kind == "sha256":
        rows = list(find(ledger, ["sha256"], equal("sha256", [wanted.value])))
    else:
        rows = []
    path = ledger if ledger.is_file() else candidates
    if not rows and wanted.kind != "sha256" and path.is_file():
        rows = list(find(path, NAMED_BY, _addressed(wanted)))
        rows = rows or list(find(path, NAMED_BY, _spelt_otherwise(wanted)))
    return rows


def _addressed(wanted: Named) -> Hit:
    """Rows with this address; for local files also as `<list's folder>/<path in it>`."""
    known = pa.array(sorted({wanted.value, wanted.text}), pa.string())

    def hit(table: pa.Table) -> pa.ChunkedArray:
        whole = pc.binary_join_element_wise(table.column("file"), table.column("url"), "/")
        columns = (table.column("url"), table.column("origin"), whole)
        return reduce(pc.or_kleene, (pc.is_in(column, value_set=known) for column in columns))

    return hit


def _spelt_otherwise(wanted: Named) -> Hit:
    """Rows with another spelling of this address or path, such as without the `?` at its end."""
    known = {*spellings(wanted.value), *spellings(wanted.text)}

    def hit(table: pa.Table) -> pa.ChunkedArray:
        places = zip(*(table.column(name).to_pylist() for name in NAMED_BY), strict=True)
        mask = [
            bool(url) and not known.isdisjoint(map(spelling, (url, f"{file}/{url}", origin or url)))
            for url, file, origin in places
        ]
        return pa.chunked_array([pa.array(mask, pa.bool_())])

    return hit


def _ids_named(data: Path, start: str) -> set[str]:
    """Ids in any later stage's files, for a project without a ledger."""
    for name in WITH_IDS:
        found = {
            row["id"]
            for path in _files(data / name)
            for _, row in find(path, ["id"], begins("id", start), ["id"])
        }
        if found:
            return found
    return set()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.is_file() else []


def _search(data: Path, rows: Sequence[Placed]) -> list[Row] | None:
    """The candidates behind rows of the ledger: those at the same place, unless search has run again since."""
    path = data / CANDIDATES
    if not path.is_file():
        return None
    there = take(path, [place for place, _ in rows])
    if all(place in there and there[place]["url"] == row["url"] for place, row in rows):
        return [there[place] for place, _ in rows]
    urls = {row["url"] for _, row in rows} - {""}
    return [row for _, row in find(path, ["url"], equal("url", urls))]


def _one(path: Path, name: str) -> Row | None:
    """The image's row in a file, or in the shards of a folder."""
    if not path.exists():
        return None
    for file in _files(path):
        for _, row in find(file, ["id"], equal("id", [name])):
            return row
    return {}


def _pool(folder: Path, name: str) -> Row | None:
    if not folder.is_dir():
        return None
    for shard in _files(folder):
        for _, row in find(shard, ["id"], equal("id", [name])):
            picture = row.pop("image")
            return {**row, "bytes": len(picture["bytes"]), "shard": shard.name}
    return {}


def _embed(path: Path, name: str) -> Row | None:
    row = _one(path, name)
    if row:
        row["best_class"] = _name(_classes(path), row["clip_class"])
    return row


def _filter(data: Path, name: str) -> Row | None:
    """Kept or dropped, and the images that were dropped as near-duplicates of this one."""
    kept, dropped = data / KEPT, data / DROPPED
    if not kept.is_file() or not dropped.is_file():
        return None
    for _, row in find(dropped, ["id"], equal("id", [name])):
        return {"kept": False, **row}
    if _one(kept, name):
        copies = find(dropped, ["other"], equal("other", [name]), ["id", "reason"])
        return {
            "kept": True,
            "copies": [row["id"] for _, row in copies if row["reason"] == "duplicate"],
        }
    return {}


def _score(data: Path, name: str) -> Row | None:
    """The teacher's two likeliest classes and their softmax probabilities."""
    row = _one(data / TEACHER, name)
    if not row:
        return row
    logits = np.asarray(row["logits"], np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    first, second = np.argsort(-shares, kind="stable")[:2].tolist()
    classes = _classes(data / SCORES)
    return {
        "teacher_class": first,
        "class": _name(classes, first),
        "confidence": float(shares[first]),
        "second_class": _name(classes, second),
        "second_confidence": float(shares[second]),
    }


def _select(data: Path, name: str) -> Row | None:
    row = _one(data / SELECTION, name)
    if row:
        row["class"] = _name(_classes(data / SCORES), row["teacher_class"])
    return row


def _distill(data: Path, name: str) -> Row | None:
    """In which of the method's choices the image was kept; each stands from its epoch until the next choice."""
    row = _one(data / HISTORY, name)
    if not row:
        return row
    epochs = list(_epochs(data / CHOICES))
    bits = row["kept"] or b""
    kept = [epoch for at, epoch in enumerate(epochs) if _bit(bits, at)]
    return {"times_kept": row["times_kept"], "choices": len(epochs), "epochs": kept}


def _bit(bits: bytes, at: int) -> bool:
    return at // 8 < len(bits) and bool(bits[at // 8] >> at % 8 & 1)


def _epochs(path: Path) -> Iterator[int]:
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield int(float(row["epoch"]))


def _classes(scores: Path) -> list[str]:
    """The class names that embed wrote into its header; the teacher's order is the same."""
    named: Any = json.loads(header(scores).get("classes", "[]")) if scores.is_file() else []
    return [str(name) for name in named]


def _name(classes: Sequence[str], number: int) -> str:
    return classes[number] if 0 <= number < len(classes) else f"class {number}"
