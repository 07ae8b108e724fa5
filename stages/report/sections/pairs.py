"""Pairs the filter called the same picture: duplicates in the pool, and pool images that repeat test images."""

from __future__ import annotations

from stages.report.evidence import Drop, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.pictures import Album
from stages.report.wording import count, figure, reason

LEAK = "leak"


def pairs(evidence: Evidence) -> Html:
    """Section `pairs`: the least certain pair of each kind first, for it is the one to look at."""
    collected, number = evidence.collected, int(evidence.params["report"]["pictures"])
    hidden = collected.hidden
    blocks = []
    for why in sorted({d.reason for d in collected.dropped if d.other}):
        album = collected.tests if why == LEAK else collected.pool
        found = [
            d
            for d in collected.dropped
            if d.reason == why and d.other in album and not hidden & {d.id, d.other}
        ]
        if found:
            found.sort(key=lambda d: (abs(d.value - d.threshold), d.id))
            blocks.append(_block(why, found, number, collected.pool, album))
    lead = "The pool image is on the left. The pairs nearest to the threshold come first: they are the ones to doubt."
    return section("pairs", "Duplicates and the leak guard", lead, *blocks) if blocks else EMPTY


def _block(why: str, found: list[Drop], number: int, pool: Album, album: Album) -> Html:
    right = "test image" if why == LEAK else "kept instead"
    title = f"{reason(why)}: {count(len(found))} pairs, threshold {figure(found[0].threshold)}"
    shown = [
        tag("div", pool.figure(d.id, figure(d.value)), album.figure(d.other, right), class_="pair")
        for d in found[:number]
    ]
    return join((tag("h3", title), tag("div", *shown, class_="sheet pairs")))
