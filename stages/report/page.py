"""The whole page: head, glance, sections. Nothing in it is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.report.evidence import Evidence
from stages.report.html import Child, Html, join, tag
from stages.report.sections.cautions import cautions, origin
from stages.report.sections.experiments import experiments
from stages.report.sections.fit import fit
from stages.report.sections.funnel import funnel
from stages.report.sections.glance import glance
from stages.report.sections.moved import moved
from stages.report.sections.pairs import pairs
from stages.report.sections.prototypes import prototypes
from stages.report.sections.rebuild import rebuild
from stages.report.sections.results import results
from stages.report.sections.sources import sources
from stages.report.sections.thresholds import thresholds
from stages.report.sections.training import curves
from stages.report.sections.truth import BANNER, planted_truth
from stages.report.wording import POOL_FREE

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
SECTIONS = (
    funnel,
    fit,
    thresholds,
    pairs,
    planted_truth,
    prototypes,
    moved,
    curves,
    results,
    experiments,
    sources,
    rebuild,
)
MENU = {
    "funnel": "Funnel",
    "fit": "Fit",
    "thresholds": "Thresholds",
    "candidates": "Other thresholds",
    "pairs": "Duplicates",
    "truth": "Planted truth",
    "prototypes": "Confounders",
    "moved": "Compensation",
    "training": "Training",
    "results": "Test set",
    "experiments": "Earlier",
    "sources": "Licences",
    "rebuild": "Rebuild",
}


def page(evidence: Evidence) -> str:
    """The report as one HTML document."""
    student, teacher = (
        evidence.measured.student["architecture"],
        evidence.measured.teacher["architecture"],
    )
    made = evidence.params["distill"]["method"] in POOL_FREE
    source = "images that the method made itself" if made else origin(evidence.collected)
    sections = [part for part in (make(evidence) for make in SECTIONS) if part]
    return document(
        f"{student}, distilled from {teacher} with {source}",
        [
            tag("p", f"Classes: {shortened(evidence.classes)}.", class_="lead"),
            tag("p", BANNER, class_="note") if evidence.truth is not None else None,
            *(tag("p", sentence, class_="note") for sentence in cautions(evidence)),
            glance(evidence, set(shown(sections))),
        ],
        sections,
        ("webdistill report", "Made by the report stage of webdistill."),
    )


def shown(sections: Sequence[Html]) -> list[str]:
    """Names of the sections that are there, in the menu's order."""
    return [name for name in MENU if any(f'<section id="{name}">' in s for s in sections)]


def document(
    title: str, header: Sequence[Child], sections: Sequence[Html], names: tuple[str, str]
) -> str:
    """A page with a menu of its sections; `names`: what it is, above the title, and who made it, at the end."""
    menu = [tag("a", MENU[name], href=f"#{name}") for name in shown(sections)]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    over, maker = names
    body = tag(
        "body",
        tag("nav", *menu),
        tag("header", tag("p", over, class_="over"), tag("h1", title), *header),
        tag("main", join(sections, "\n")),
        tag("footer", f"{maker} This file loads nothing and runs no script."),
    )
    return f'<!doctype html>\n<html lang="en">{head}\n{body}</html>\n'


def shortened(classes: Sequence[str], most: int = 12) -> str:
    """The first names, and how many more there are."""
    return ", ".join(classes[:most]) + (
        f" and {len(classes) - most} more" if len(classes) > most else ""
    )
