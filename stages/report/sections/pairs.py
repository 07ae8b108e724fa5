"""Pairs the filter called the same picture: duplicates in the pool, and pool images that repeat test images."""

from __future__ import annotations

import numpy as np

from stages.report.columns import Places, first, text
from stages.report.evidence import Collected, Evidence
from stages.report.html import EMPTY, Html, join, section, tag
from stages.report.pictures import Album
from stages.report.wording import count, figure, reason

LEAK = "leak"


def pairs(evidence: Evidence) -> Html:
    """Section `pairs`: the least certain pair of each kind first, for it is the one to look at."""
    collected, number = evidence.collected, int(evidence.params["report"]["pictures"])
    drops, hidden = collected.dropped, collected.hidden
    paired = drops["other"] != b""
    shown = paired & ~hidden.has(drops.ids) & ~hidden.has(drops["other"])
    blocks = []
    for why in sorted(set(drops["reason"][paired])):
        album = collected.tests if why == LEAK else collected.pool
        mine = np.flatnonzero(shown & (drops["reason"] == why))
        mine = mine[album.has(drops["other"][mine])]
        if len(mine):
            gap = abs(drops["value"][mine] - drops["threshold"][mine])
            nearest = mine[first(gap, drops.ids[mine], number)]
            blocks.append(_block(why, len(mine), nearest, collected, album))
    lead = "The pool image is on the left. Pairs nearest to the threshold come first: they are the most doubtful."
    return section("pairs", "Duplicates and the leak guard", lead, *blocks) if blocks else EMPTY


def _block(why: str, pairs: int, shown: Places, collected: Collected, album: Album) -> Html:
    drops = collected.dropped
    right = "test image" if why == LEAK else "kept instead"
    threshold = drops["threshold"][shown[0]]
    title = f"{reason(why)}: {count(pairs)} pairs, threshold {figure(threshold)}"
    frames = [
        tag(
            "div",
            collected.pool.figure(text(drops.ids[at]), figure(drops["value"][at])),
            album.figure(text(drops["other"][at]), right),
            class_="pair",
        )
        for at in shown
    ]
    return join((tag("h3", title), tag("div", *frames, class_="sheet pairs")))
