"""This student beside those of earlier experiments that somebody has kept."""

from __future__ import annotations

from stages.report import charts
from stages.report.evidence import Evidence
from stages.report.html import Child, Html, join, section, table, tag
from stages.report.wording import count, half_width, percent
from webdistill.experiments import Kept, differences

THIS = "this one"
MOST_CHANGES = 8
LEAD = (
    "Metrics of earlier runs that were kept, and the parameters in which they differ from this run. "
    "An interval covers the test sample alone; another seed changes a student in addition."
)
NONE = "No earlier experiment was kept. To compare the next run with this one:"
HINT = """python -m webdistill results --keep NAME   # keeps the last run as experiments/NAME.json
dvc repro report                           # compares with it here"""


def comparable(evidence: Evidence) -> list[Kept]:
    """Kept experiments measured on the same test images, best first."""
    own = evidence.inputs[evidence.params["task"]["test_images"]]
    found = [kept for kept in evidence.kept if kept.tests == own]
    return sorted(found, key=lambda kept: (-kept.figures["top1"], kept.name))


def experiments(evidence: Evidence) -> Html:
    """Section `experiments`."""
    found = comparable(evidence)
    left = len(evidence.kept) - len(found)
    return section(
        "experiments",
        "Beside earlier experiments",
        LEAD if found else NONE,
        _table(evidence, found) if found else tag("pre", HINT),
        tag("p", f"Left out: {count(left)} measured on other test images.") if left else None,
    )


def _table(evidence: Evidence, found: list[Kept]) -> Html:
    mine = evidence.flat
    this = Kept(
        THIS, mine, evidence.measured.figures, evidence.measured.student["architecture"], ""
    )
    everyone = sorted([this, *found], key=lambda kept: -kept.figures["top1"])
    body = [_row(kept, differences(mine, kept.params), kept is this) for kept in everyone]
    header: list[Child] = [
        "experiment",
        "",
        "top-1",
        "±",
        "agreement",
        "student",
        "parameters",
        "differs in",
    ]
    return tag("div", table(header, body, {2, 3, 4, 6}), class_="bars many")


def _row(kept: Kept, changed: dict[str, str], own: bool) -> list[Child]:
    figures = kept.figures
    images = int(figures.get("test_images", 0))
    return [
        tag("b", kept.name) if own else kept.name,
        charts.bar(figures["top1"], "" if own else "other"),
        percent(figures["top1"], 2),
        f"{100 * half_width(figures['top1'], images):.1f}" if images else "",
        percent(figures["agreement"], 1),
        tag("span", kept.student, class_="whole"),
        count(figures["parameters"]),
        "" if own else _changes(changed),
    ]


def _changes(changed: dict[str, str]) -> Html:
    if not changed:
        return tag("span", "nothing: same parameters")
    shown = list(changed.items())[:MOST_CHANGES]
    parts = [tag("code", f"{key}={value}" if value else f"{key} unset") for key, value in shown]
    if more := len(changed) - len(shown):
        parts.append(tag("span", f"and {more} more"))
    return join(parts, " ")
