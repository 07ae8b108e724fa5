"""Scores that lists bring along, such as LAION's punsafe, as features of the pool's images.

What a list does not state is not asked: such images stay, and the stage says how many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.filter.params import Filter
from stages.filter.rules import Doubles, Reason, Verdict
from webdistill.core.errors import UserError
from webdistill.core.files import read_table


@dataclass(frozen=True)
class Rule:
    """A parameter of filter, the column of candidates.parquet that it is about, and which side of it is dropped."""

    key: str
    column: str
    reason: Reason
    above: bool


REFUSED = (
    Rule("max_punsafe", "punsafe", "punsafe", above=True),
    Rule("max_nsfw", "nsfw", "nsfw", above=True),
)
POOR = (
    Rule("max_pwatermark", "pwatermark", "pwatermark", above=True),
    Rule("min_aesthetic", "aesthetic", "low_aesthetic", above=False),
    Rule("min_similarity", "similarity", "low_similarity", above=False),
)


def asked(settings: Filter) -> list[Rule]:
    """The rules whose parameter is not null."""
    return [rule for rule in (*REFUSED, *POOR) if getattr(settings, rule.key) is not None]


def read_listed(
    candidates: Path, ledger: pa.Table, ids: Sequence[str], rules: Sequence[Rule]
) -> dict[str, Doubles]:
    """Column -> its value for each image, NaN where no list states one.

    Of an image with several candidates the highest counts where high ones are dropped, else that of the candidate that
    brought it. Raises UserError when the ledger (id, status, url) is of other candidates.
    """
    columns = list(dict.fromkeys(rule.column for rule in rules))
    table = read_table(candidates, ["url", *columns])
    if not table["url"].equals(ledger["url"]):
        raise UserError(
            f"{candidates} is not what data/fetch/ledger.parquet was made of; run `dvc repro filter`"
        )
    place = {name: at for at, name in enumerate(ids)}
    where = np.array([place.get(name, -1) for name in ledger["id"].to_pylist()], np.int64)
    brought = np.array([status == "ok" for status in ledger["status"].to_pylist()], bool)
    found = {}
    for rule in rules:
        stated = table[rule.column].to_numpy().astype(np.float64)
        rows = (where >= 0) & (brought | rule.above)
        value = np.full(len(ids), np.nan)
        np.fmax.at(value, where[rows], stated[rows])
        found[rule.column] = value
    return found


def verdicts(
    rules: Sequence[Rule], listed: Mapping[str, Doubles], settings: Filter
) -> Iterator[Verdict]:
    """Of those of the rules that are asked."""
    for rule in rules:
        threshold = getattr(settings, rule.key)
        if threshold is not None:
            value = listed[rule.column]
            drop = value > threshold if rule.above else value < threshold
            yield Verdict(rule.reason, drop, value, threshold)


def unstated(listed: Mapping[str, Doubles], settings: Filter) -> Iterator[str]:
    """A line for each rule that has nothing to say of some images."""
    for rule in asked(settings):
        value = listed[rule.column]
        if missing := int(np.isnan(value).sum()):
            yield (
                f"filter.{rule.key} was not asked of {missing:,} of {len(value):,} images: their list states no "
                f"{rule.column}"
            )
