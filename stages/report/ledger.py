"""The ledger as the page needs it: of every address its host alone, and equal texts once."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from stages.report.columns import batches

READ = ["row", "id", "url", "status", "licence", "licence_url", "landing_page", "detail"]
UNKNOWN = "not stated"
OWN = "a host of the own network"  # how the ledger's detail of such an image begins


def host(*addresses: str) -> str:
    """Host name of the first address that has one; never user info, port, path or query."""
    for address in addresses:
        try:
            name = urlsplit(address).hostname
        except ValueError:
            name = None
        if name and urlsplit(address).scheme in ("http", "https"):
            return name
    return UNKNOWN


def read_ledger(path: Path) -> pa.Table:
    """row, id, status, licence, licence_url, host, own (a picture from a host that is not public).

    A few rows at a time: a million addresses are hundreds of megabytes.
    """
    parts = [_compact(batch) for batch in batches(path, READ)]
    schema = _compact(pa.RecordBatch.from_pylist([], _read_schema())).schema
    return pa.Table.from_batches(parts, schema).unify_dictionaries().combine_chunks()


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    landing, urls = (batch.column(name).to_pylist() for name in ("landing_page", "url"))
    hosts = [host(page or "", url or "") for page, url in zip(landing, urls, strict=True)]
    own = pc.and_(
        pc.equal(batch.column("status"), "ok"),
        pc.fill_null(pc.match_substring(batch.column("detail"), OWN), False),
    )
    texts = [batch.column(name) for name in ("status", "licence", "licence_url")]
    coded = [pc.fill_null(one, "").dictionary_encode() for one in texts]
    return pa.RecordBatch.from_arrays(
        [batch.column("row"), batch.column("id"), *coded,
         pa.array(hosts, pa.string()).dictionary_encode(), own],
        ["row", "id", "status", "licence", "licence_url", "host", "own"],
    )  # fmt: skip


def _read_schema() -> pa.Schema:
    return pa.schema([("row", pa.int64()), *((name, pa.string()) for name in READ[1:])])
