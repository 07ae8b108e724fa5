"""From the score stage's shards to the eligible images, and from the chosen ones to the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.select.rules import Floats, Ints, Scored, confidence, rank_within_class
from webdistill.core.errors import UserError
from webdistill.core.files import read_table

# Reasons of the filter that the control `source: pool` ignores: matters of quality and number, decided after
# the opt-outs and the leak guard have seen the image. Any other reason holds, also one that is
# added to the filter later.
QUALITY = (
    "too_small", "elongated", "blank", "low_entropy", "pwatermark", "low_aesthetic", "low_similarity", "low_score",
    "low_margin", "duplicate", "class_cap",
)  # fmt: skip


def _ids(table: pa.Table) -> NDArray[np.str_]:
    return np.array(table["id"].to_pylist(), dtype=np.str_)


def read_scored(shards: Iterable[Path], classes: int) -> Scored:
    """Every image of the pool, read shard by shard so that the logits never lie in memory together.

    Raises UserError when a shard's logits are not `classes` wide.
    """
    ids, best, doubt = [], [], []
    for path in shards:
        table = read_table(path, ["id", "logits"])
        width = table.schema.field("logits").type.list_size
        if width != classes:
            raise UserError(
                f"{path} holds {width} logits, task.classes names {classes}; run `dvc repro score`"
            )
        flat = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        one, two = confidence(flat.reshape(-1, width))
        ids.append(_ids(table))
        best.append(one)
        doubt.append(two)
    if not ids:  # the pool is empty
        return Scored(np.empty(0, np.str_), np.empty(0, np.int64), np.empty(0))
    every = np.concatenate(ids)
    order = np.argsort(every, kind="stable")
    return Scored(every[order], np.concatenate(best)[order], np.concatenate(doubt)[order])


def restrict(scored: Scored, wanted: NDArray[np.str_], where: Path) -> Scored:
    """Only the images named in `wanted`. Raises UserError when one of them has no score."""
    wanted = np.unique(wanted)
    place = positions(scored.ids, wanted)
    if (place < 0).any():
        lost = wanted[place < 0][0]
        raise UserError(f"image {lost} of {where} has no teacher score; run `dvc repro score`")
    return subset(scored, place)


def subset(scored: Scored, where: Ints) -> Scored:
    """The images at these ascending positions."""
    return Scored(scored.ids[where], scored.teacher_class[where], scored.doubt[where])


def positions(ids: NDArray[np.str_], wanted: NDArray[np.str_]) -> Ints:
    """Where each wanted id lies in the ascending `ids`, -1 for one that is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[place] == wanted, place, -1)


def eligible_kept(scored: Scored, kept: Path) -> Scored:
    """The images that the filter kept."""
    return restrict(scored, _ids(read_table(kept, ["id"])), kept)


def eligible_pool(scored: Scored, kept: Path, dropped: Path) -> Scored:
    """Without CLIP filter and deduplication; opted-out images and leaked test images stay out."""
    table = read_table(dropped, ["id", "reason"])
    low = np.isin(np.array(table["reason"].to_pylist(), dtype=np.str_), QUALITY)
    wanted = np.concatenate([_ids(read_table(kept, ["id"])), _ids(table)[low]])
    return restrict(scored, wanted, dropped)


def keyword_classes(scored: Scored, embedded: Path) -> Ints:
    """[n] class index that the image's search keyword names, -1 where it names none."""
    table = read_table(embedded, ["id", "query_class"])
    ids = _ids(table)
    order = np.argsort(ids, kind="stable")
    place = positions(ids[order], scored.ids)
    if (place < 0).any():
        raise UserError(
            f"image {scored.ids[place < 0][0]} is not in {embedded}; run `dvc repro embed`"
        )
    return np.asarray(table["query_class"].to_numpy())[order][place]


def selection(chosen: Scored, keyword: Ints) -> pa.Table:
    """id, teacher_class, confidence, weight, rank (0 = most confident of its class), keyword_class (-1 = none)."""
    weight = np.ones(len(chosen.ids), dtype=np.float32)  # all rules so far are hard choices
    return pa.table(
        {
            "id": pa.array(chosen.ids.tolist(), pa.string()),
            "teacher_class": pa.array(chosen.teacher_class, pa.int32()),
            "confidence": pa.array(np.exp(-chosen.doubt).astype(np.float32)),
            "weight": pa.array(weight),
            "rank": pa.array(rank_within_class(chosen.teacher_class, chosen.doubt), pa.int32()),
            "keyword_class": pa.array(keyword, pa.int32()),
        }
    )


def figures(
    chosen: Scored, eligible: int, keyword: Ints, classes: Sequence[str]
) -> dict[str, float]:
    """Metrics of a selection; `keyword`: class that a chosen image's keyword names, -1 = none."""
    counts = np.bincount(chosen.teacher_class, minlength=len(classes))
    named = keyword >= 0
    out: dict[str, float] = {
        "eligible": eligible,
        "selected": len(chosen.ids),
        "selected_share": round(len(chosen.ids) / max(eligible, 1), 6),
        "mean_confidence": _mean(np.exp(-chosen.doubt)),
        "agreement_with_keyword": _mean(
            (chosen.teacher_class == keyword)[named].astype(np.float64)
        ),
        "empty_classes": int((counts == 0).sum()),
        "smallest_class": int(counts.min()),
        "largest_class": int(counts.max()),
    }
    if len(classes) <= 100:  # beyond that the extremes say more than a thousand keys
        out |= {f"class/{name}": int(count) for name, count in zip(classes, counts, strict=True)}
    return out


def _mean(values: Floats) -> float:
    return round(float(values.mean()), 6) if len(values) else 0.0


def check_classes(chosen: Scored, eligible: Scored, classes: Sequence[str]) -> list[str]:
    """Names of the classes without a selected image; UserError when fewer than two have one."""
    counts = np.bincount(chosen.teacher_class, minlength=len(classes))
    if (counts > 0).sum() < 2:
        only = classes[int(counts.argmax())]
        if len(set(eligible.teacher_class.tolist())) < 2:  # no rule and no budget helps
            raise UserError(
                f"the teacher puts all {len(eligible.ids):,} eligible images into class '{only}'; at least 2 classes "
                "are needed: collect images of others, loosen the filter, or see what `python -m webdistill "
                "check-teacher` says of the teacher's normalisation"
            )
        raise UserError(
            f"all {len(chosen.ids)} selected images fall into class '{only}'; at least 2 classes "
            "are needed: raise select.budget or use select.rule: balanced"
        )
    return [name for name, count in zip(classes, counts, strict=True) if count == 0]
