"""The funnel as text, whole or one line per group."""

from __future__ import annotations

from collections import Counter

from webdistill.commands.provenance.funnel import Funnel, Lost
from webdistill.commands.provenance.text import table

MANY = 20  # groups that have a line of their own
LONGEST = 24  # characters of a group's name
NUMBERS = frozenset({1, 2})


def tell(found: Lost, by: str | None) -> str:
    """The funnel, then the groups, then what does not add up (nothing, as a rule)."""
    lines = table(["", "images", "of all"], _steps(found), NUMBERS)
    if by:
        lines += ["", *_grouped(found, by)]
    if found.faults:
        lines += ["", *table([], [["does not add up:", fault] for fault in found.faults[:MANY]])]
        lines.append("run `dvc repro` so that the stages' outputs match again")
    else:
        lines += ["", "every candidate is accounted for"]
    return "\n".join(lines)


def _steps(found: Lost) -> list[list[str]]:
    """What is left, and between two such lines each reason why the rest is gone."""
    whole = found.whole
    rows = [_step("candidates", whole.candidates, whole), *_losses(whole.not_fetched, whole)]
    rows.append(_step("in the pool", whole.pool, whole))
    if not found.filtered:
        return [*rows, ["filter has not run here", "", ""]]
    rows += [*_losses(whole.dropped, whole), _step("kept by the filter", whole.kept, whole)]
    if not found.chosen:
        return [*rows, ["select has not run here", "", ""]]
    rows.append(_step("  - not selected", whole.not_selected, whole))
    if whole.restored:
        rows.append(_step("  + dropped, yet selected", whole.restored, whole))
    return [*rows, _step("selected", whole.selected, whole)]


def _losses(counted: Counter[str], whole: Funnel) -> list[list[str]]:
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [_step(f"  - {reason}", images, whole) for reason, images in ordered]


def _step(name: str, images: int, whole: Funnel) -> list[str]:
    share = f"{images / whole.candidates:.1%}" if whole.candidates else "-"
    return [name, f"{images:,}", share]


def _grouped(found: Lost, by: str) -> list[str]:
    """One line per group; beyond MANY the small ones share one, so that the columns still sum to the whole."""
    named = list(found.groups.items())
    rows = [_line(_cut(name), funnel, found) for name, funnel in named[:MANY]]
    if rest := [funnel for _, funnel in named[MANY:]]:
        rows.append(_line(f"({len(rest):,} more)", together(rest), found))
    head = [by, "candidates", "pool", "kept", "selected", "lost most to"]
    return table(head, rows, frozenset({1, 2, 3, 4}))


def together(funnels: list[Funnel]) -> Funnel:
    """The sum of several funnels."""
    return Funnel(
        candidates=sum(f.candidates for f in funnels),
        not_fetched=sum((f.not_fetched for f in funnels), Counter()),
        pool=sum(f.pool for f in funnels),
        dropped=sum((f.dropped for f in funnels), Counter()),
        kept=sum(f.kept for f in funnels),
        not_selected=sum(f.not_selected for f in funnels),
        restored=sum(f.restored for f in funnels),
        selected=sum(f.selected for f in funnels),
    )


def _line(name: str, funnel: Funnel, found: Lost) -> list[str]:
    losses = funnel.not_fetched + funnel.dropped
    most = sorted(losses.items(), key=lambda item: (-item[1], item[0]))[:1]
    return [
        name,
        f"{funnel.candidates:,}",
        f"{funnel.pool:,}",
        f"{funnel.kept:,}" if found.filtered else "-",
        f"{funnel.selected:,}" if found.chosen else "-",
        ", ".join(f"{reason} {images:,}" for reason, images in most),
    ]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
