"""python docs/images/concepts.py > docs/images/concepts.svg: stages, what they write, and what runs again when.

The dots follow from dvc.yaml; tests/docs/test_concepts.py fails when the picture is older than that file. It has a
background of its own, so it reads the same on light and dark pages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]
STAGES = {  # in an order that the graph allows -> what each is known for
    "search": "candidates",
    "fetch": "pool, ledger",
    "embed": "CLIP vectors",
    "score": "teacher's logits",
    "filter": "kept, dropped",
    "select": "selection",
    "prototypes": "confounders",
    "distill": "student",
    "evaluate": "figures, ONNX",
    "report": "page, card",
}
ZONES = (
    ("the network", "#dbe8f7", 2),
    ("once per image", "#e3f1e1", 2),
    ("thresholds: seconds", "#fbf0d2", 3),
    ("training and what comes of it", "#f3e3ef", 3),
)
CHANGES = (  # parameters as section.key, everything else as dvc.yaml names it
    "search.keywords", "embed.model", "task.teacher", "filter.min_score", "takedown.txt", "select.budget",
    "prototypes.count", "distill.lr", "stages/distill", "report.pictures",
)  # fmt: skip
LEFT, WIDE, TOP, ROW = 150, 92, 128, 26


def first(pipeline: Mapping[str, Any], change: str) -> set[str]:
    """Stages that name the changed thing among their parameters or dependencies."""
    names = {change, change.partition(".")[0]}
    return {
        name for name, stage in pipeline.items() if names & {*stage["params"], *stage["deps"]}
    }  # fmt: skip


def after(pipeline: Mapping[str, Any], stages: set[str]) -> set[str]:
    """Stages that read an output of `stages`, directly or not."""
    found: set[str] = set()
    while True:
        more = {
            name
            for name, stage in pipeline.items()
            for dep in stage["deps"]
            if dep.startswith("data/") and dep.split("/")[1] in stages | found
        } - found  # fmt: skip
        if not more:
            return found - stages
        found |= more


def text(x: float, y: float, words: str, *, size: int = 12, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {more}>{escape(words)}</text>'


def header() -> Iterator[str]:
    """Zones with their stages and what these write."""
    centred, x = 'text-anchor="middle"', LEFT
    for words, colour, count in ZONES:
        wide = count * WIDE
        height = TOP + ROW * len(CHANGES) - 8
        yield f'<rect x="{x + 2}" y="12" width="{wide - 4}" height="{height}" rx="6" fill="{colour}"/>'
        yield text(x + wide / 2, 32, words, more=f'{centred} fill="#444"')
        x += wide
    for number, (name, writes) in enumerate(STAGES.items()):
        middle = LEFT + WIDE * (number + 0.5)
        yield (
            f'<rect x="{middle - 41}" y="44" width="82" height="28" rx="4" fill="#fff" stroke="#777"/>'
        )
        yield text(middle, 63, name, size=12, more=f'{centred} font-weight="600"')
        yield text(middle, 90, writes, size=11, more=centred)


def matrix(pipeline: Mapping[str, Any]) -> Iterator[str]:
    """A row per change: full dots run again, rings run again if what they read came out different."""
    yield text(14, 112, "changed", more='font-style="italic" fill="#444"')
    for row, change in enumerate(CHANGES):
        y = TOP + ROW * row
        yield f'<line x1="10" x2="{LEFT + WIDE * len(STAGES) - 6}" y1="{y - 13}" y2="{y - 13}" stroke="#bbb"/>'
        yield text(14, y + 4, change, more='font-family="monospace"')
        sure = first(pipeline, change)
        maybe = after(pipeline, sure)
        for number, name in enumerate(STAGES):
            middle = LEFT + WIDE * (number + 0.5)
            if name in sure:
                yield f'<circle cx="{middle:g}" cy="{y}" r="6" fill="#1f3a5f"/>'
            elif name in maybe:
                yield f'<circle cx="{middle:g}" cy="{y}" r="5.5" fill="none" stroke="#1f3a5f" stroke-width="1.8"/>'


def picture(pipeline: Mapping[str, Any]) -> str:
    wide, high = LEFT + WIDE * len(STAGES) + 10, TOP + ROW * len(CHANGES) + 34
    legend = "full: runs again    ring: runs again if what it reads came out different    none: stays as it is"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
                'font-family="Helvetica, Arial, sans-serif" fill="#111" role="img">'
            ),
            "<title>The stages, what they write, and which run again after a change</title>",
            f'<rect width="{wide}" height="{high}" rx="8" fill="#ffffff"/>',
            *header(),
            *matrix(pipeline),
            text(LEFT + 4, high - 12, legend, more='fill="#444" xml:space="preserve"'),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(picture(read_yaml(ROOT / "dvc.yaml")["stages"]))
