"""Licences and hosts of the images, from the ledger."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.report.columns import names
from stages.report.evidence import Collected, Evidence
from stages.report.html import Child, Html, link, section, table, tag
from stages.report.ledger import UNKNOWN
from stages.report.wording import count

STATED = ["licence", "licence_url", "host"]


def pooled(collected: Collected) -> pa.Table:
    """What the ledger states of every image in the pool."""
    ledger = collected.ledger
    return ledger.select(STATED).filter(pc.equal(ledger["status"], "ok"))


def used(collected: Collected) -> pa.Table:
    """What it states of every selected image."""
    ledger = collected.ledger
    chosen = pa.array(collected.selected.has(names(ledger["id"])))
    return ledger.select(STATED).filter(pc.and_(pc.equal(ledger["status"], "ok"), chosen))


def licences(rows: pa.Table) -> list[tuple[str, str, int]]:
    """(licence, its address, images), most frequent first."""
    counted = _counted(rows, ["licence", "licence_url"])
    found = [(name or UNKNOWN, url, n) for name, url, n in counted]
    return sorted(found, key=lambda item: (-item[2], item[0], item[1]))


def hosts(rows: pa.Table) -> list[tuple[str, int]]:
    """(host, images), most frequent first."""
    found = [(name, n) for name, n in _counted(rows, ["host"])]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _counted(rows: pa.Table, keys: list[str]) -> list[tuple[Any, ...]]:
    """(value of each key, rows)"""
    found = rows.select(keys).group_by(keys).aggregate([([], "count_all")])
    columns = [found[name].to_pylist() for name in (*keys, "count_all")]
    return list(zip(*columns, strict=True))


def sources(evidence: Evidence) -> Html:
    """Section `sources`."""
    rows = used(evidence.collected)
    by_licence: list[list[Child]] = [[link(name, url), count(n)] for name, url, n in licences(rows)]
    by_host: list[list[Child]] = [[name, count(n)] for name, n in hosts(rows)]
    limit = int(evidence.params["report"]["hosts"])
    lead = "As the sources of the selected images state them. Stated is not cleared: check before you publish."
    if own := pc.sum(evidence.collected.ledger["own"]).as_py():
        lead += f" {count(own)} images of the pool came from hosts of the own network, "
        lead += "which WEBDISTILL_ALLOW_HOSTS allowed."
    title = (
        f"hosts (the first {limit} of {count(len(by_host))})" if len(by_host) > limit else "hosts"
    )
    return section(
        "sources",
        "Licences and hosts",
        lead,
        tag(
            "div",
            tag(
                "div", tag("h3", "licences"), table(["licence", "images"], by_licence[:limit], {1})
            ),
            tag("div", tag("h3", title), table(["host", "images"], by_host[:limit], {1})),
            class_="grid",
        ),
    )
