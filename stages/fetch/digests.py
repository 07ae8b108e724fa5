"""Digests that a list gives with its addresses: whether the file is still the one that the list's makers saw.

Who buys an expired host can serve other pictures at a million listed addresses (Carlini et al., 2023, "Poisoning
Web-Scale Training Datasets is Practical"). Only downloads are checked: what lies in a list or a tar was often scaled
since its digest was taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa

from stages.fetch.outcomes import Outcome
from stages.fetch.params import Changed

UNKNOWN = frozenset({"", "?", "-", "nan", "none", "null"})  # a list's word for no digest
SHOWN = 64  # characters of a list's digest in the ledger


def listed(table: pa.Table) -> Iterator[tuple[str, str]]:
    """Per candidate the name and value of the digest that its download must have; ("", "") where there is none."""
    columns = [table.column(name) for name in ("source", "sha256", "md5")]
    for batch in pa.table(columns, names=["source", "sha256", "md5"]).to_batches(10_000):
        for source, sha256, md5 in zip(*(it.to_pylist() for it in batch.columns), strict=True):
            if source != "http":
                yield "", ""
            elif sha256 not in UNKNOWN:
                yield "sha256", sha256
            else:
                yield ("md5", md5) if md5 not in UNKNOWN else ("", "")


def checked(outcome: Outcome, name: str, value: str, changed: Changed) -> Outcome:
    """The outcome, as `changed` or with a word on it where the picture's file has not the digest of the list."""
    if not name or outcome.status != "ok":
        return outcome
    found = outcome.sha256 if name == "sha256" else outcome.md5
    if found == value:
        return outcome
    detail = f"{name} {found}, in the list {value[:SHOWN]}"
    if changed == "keep":
        more = f"; {outcome.detail}" if outcome.detail else ""
        return outcome._replace(detail=f"changed: {detail}{more}")
    return outcome._replace(status="changed", detail=detail, image=b"")


def md5(data: bytes) -> str:
    """Of a file whose list has no better digest."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
