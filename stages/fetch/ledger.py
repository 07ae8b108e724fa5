"""The ledger: one row per candidate, in their order, with what became of it; and the pool rows that follow from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from stages.fetch.candidates import Candidates
from stages.fetch.outcomes import STATUSES, Outcome
from webdistill.core.errors import UserError
from webdistill.images.pool import PoolRow

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("id", pa.string()),
        ("http_status", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("query", pa.string()),
        ("licence", pa.string()),
        ("licence_url", pa.string()),
        ("creator", pa.string()),
        ("landing_page", pa.string()),
        ("opt_out", pa.string()),
        ("detail", pa.string()),
    ]
)
FROM_OUTCOME = {
    "bytes": "size",
    **{name: name for name in ("status", "id", "http_status", "sha256", "detail")},
}


def settle(
    outcomes: Iterable[Outcome], candidates: Candidates, ledger: list[Outcome]
) -> Iterator[PoolRow]:
    """The first candidate of each picture as a pool row; every outcome goes to `ledger`, without its image.

    Raises UserError at the end when not one image came through.
    """
    queries, captions = candidates.table.column("query"), candidates.table.column("caption")
    seen: set[str] = set()
    for at, outcome in enumerate(outcomes):
        if outcome.status == "ok" and outcome.id not in seen:
            seen.add(outcome.id)
            query, caption = queries[at].as_py(), captions[at].as_py()
            yield PoolRow(outcome.id, outcome.image, outcome.width, outcome.height, query, caption)
            ledger.append(replace(outcome, image=b""))
        else:
            status = "duplicate" if outcome.status == "ok" else outcome.status
            ledger.append(replace(outcome, status=status, image=b""))
    if not seen:
        reasons = Counter(outcome.status for outcome in ledger).most_common(3)
        counted = ", ".join(f"{status} {count}" for status, count in reasons)
        raise UserError(
            f"no image came through fetch ({len(ledger)} candidates: {counted}); check search.list"
        )


def ledger_table(candidates: Candidates, outcomes: Sequence[Outcome]) -> pa.Table:
    """The ledger as a table."""
    columns = {
        name: [getattr(outcome, FROM_OUTCOME[name]) for outcome in outcomes]
        if name in FROM_OUTCOME
        else candidates.table.column(name)
        for name in SCHEMA.names
    }
    return pa.table(columns, schema=SCHEMA)


def count_statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """`candidates`, and how many ended in each status (all of them, so that two runs compare line by line)."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {"candidates": len(outcomes), **{status: counts[status] for status in STATUSES}}
