"""Licences and hosts of the images, from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from urllib.parse import urlsplit

from stages.report.evidence import Collected, Evidence
from stages.report.html import Child, Html, link, section, table, tag
from stages.report.wording import count

UNKNOWN = "not stated"


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


def pooled(collected: Collected) -> list[dict[str, str]]:
    """The ledger's row of every image in the pool."""
    columns = ["id", "status", "url", "licence", "licence_url", "landing_page"]
    return [row for row in collected.ledger.select(columns).to_pylist() if row["status"] == "ok"]


def used(collected: Collected) -> list[dict[str, str]]:
    """The ledger's row of every selected image."""
    return [row for row in pooled(collected) if row["id"] in collected.selected]


def licences(rows: Iterable[dict[str, str]]) -> list[tuple[str, str, int]]:
    """(licence, its address, images), most frequent first."""
    counted = Counter((row["licence"] or UNKNOWN, row["licence_url"] or "") for row in rows)
    return sorted(
        ((*key, n) for key, n in counted.items()), key=lambda item: (-item[2], item[0], item[1])
    )


def hosts(rows: Iterable[dict[str, str]]) -> list[tuple[str, int]]:
    """(host, images), most frequent first."""
    counted = Counter(host(row["landing_page"] or "", row["url"] or "") for row in rows)
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def sources(evidence: Evidence) -> Html:
    """Section `sources`."""
    rows = used(evidence.collected)
    by_licence: list[list[Child]] = [[link(name, url), count(n)] for name, url, n in licences(rows)]
    by_host: list[list[Child]] = [[name, count(n)] for name, n in hosts(rows)]
    limit = int(evidence.params["report"]["hosts"])
    lead = "Of the selected images, as the search's list states them. Stated is not cleared: check before you publish."
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
