"""The ledger: one row per candidate, in their order, with what became of it; and the pool rows that follow from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from stages.fetch.candidates import Candidates
from stages.fetch.digests import checked, listed
from stages.fetch.outcomes import STATUSES, Outcome
from stages.fetch.params import Changed
from webdistill.core.errors import UserError
from webdistill.images.pool import PoolRow
from webdistill.web.intranet import HINT, OWN

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("provider", pa.string()),
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
        ("origin", pa.string()),
        ("attribution", pa.string()),
        ("opt_out", pa.string()),
        ("robots", pa.string()),
        ("detail", pa.string()),
    ]
)
FOUND = ("status", "id", "http_status", "bytes", "sha256", "opt_out", "robots", "detail")
BATCH = 10_000  # rows turned into Arrow arrays at a time


class NothingCameError(UserError):
    """Not one image for the pool; the ledger has every reason."""


class Ledger:
    """Grows while the pool is written, as Arrow arrays, so that a long list costs little."""

    def __init__(self, candidates: Candidates, changed: Changed = "drop") -> None:
        self._candidates = candidates
        self._changed = changed
        self._rows: list[tuple[object, ...]] = []
        self._batches: list[pa.RecordBatch] = []
        self.counts: Counter[str] = Counter()
        self.own = 0  # images from hosts that only the environment allows

    def settle(self, outcomes: Iterable[Outcome]) -> Iterator[PoolRow]:
        """The first candidate of each picture as a pool row; every outcome becomes a row of the ledger.

        Raises NothingCameError at the end when not one image came through.
        """
        queries, captions = (self._candidates.table.column(name) for name in ("query", "caption"))
        seen: set[bytes] = set()
        digests = listed(self._candidates.table)
        for at, (given, digest) in enumerate(zip(outcomes, digests, strict=True)):
            outcome = checked(given, *digest, self._changed)
            name = bytes.fromhex(outcome.id)
            first = outcome.status == "ok" and name not in seen
            self._add(
                outcome, "duplicate" if outcome.status == "ok" and not first else outcome.status
            )
            self.own += outcome.status == "ok" and OWN in outcome.detail
            if first:
                seen.add(name)
                query, caption = queries[at].as_py(), captions[at].as_py()
                size = (outcome.width, outcome.height)
                yield PoolRow(outcome.id, outcome.image, *size, query, caption)
        if not seen and len(self._candidates):  # of no candidates, an empty pool is the answer
            common = ", ".join(f"{name} {count}" for name, count in self.counts.most_common(3))
            total = len(self._candidates)
            hint = f"; {HINT}" if self.counts["not_public"] else ""
            raise NothingCameError(
                f"no image came through fetch ({total} candidates: {common}); failures.csv and `python -m webdistill "
                f"lost` say why, check search.local{hint}"
            )

    def table(self) -> pa.Table:
        """The ledger as a table."""
        self._flush()
        found = pa.Table.from_batches(self._batches)
        given = self._candidates.table
        listed = given.column("opt_out")
        opt_out = pc.if_else(pc.equal(listed, ""), found.column("opt_out"), listed)
        columns = {name: (found if name in FOUND else given).column(name) for name in SCHEMA.names}
        return pa.table({**columns, "opt_out": opt_out}, schema=SCHEMA)

    def metrics(self) -> dict[str, int]:
        """`candidates`, and how many ended in each status (all of them, so that two runs compare line by line)."""
        counts = [(status, self.counts[status]) for status in STATUSES]
        return dict([("candidates", self.counts.total()), *counts])

    def _add(self, outcome: Outcome, status: str) -> None:
        self.counts[status] += 1
        self._rows.append(
            (status, outcome.id, outcome.http_status, outcome.size, outcome.sha256, outcome.opt_out, outcome.robots,
             outcome.detail)
        )  # fmt: skip
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(FOUND)
        schema = pa.schema([SCHEMA.field(name) for name in FOUND])
        arrays = [pa.array(it, kind.type) for it, kind in zip(columns, schema, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        self._rows = []
