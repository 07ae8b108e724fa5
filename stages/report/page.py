"""The whole page: head, glance, sections. Nothing in it is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.report.evidence import Evidence
from stages.report.html import Html, join, tag
from stages.report.sections.experiments import experiments
from stages.report.sections.fit import fit
from stages.report.sections.funnel import funnel
from stages.report.sections.glance import glance
from stages.report.sections.pairs import pairs
from stages.report.sections.prototypes import prototypes
from stages.report.sections.rebuild import rebuild
from stages.report.sections.results import results
from stages.report.sections.sources import sources
from stages.report.sections.thresholds import thresholds
from stages.report.sections.training import curves
from stages.report.sections.truth import BANNER, planted_truth

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
SECTIONS = (
    funnel,
    fit,
    thresholds,
    pairs,
    planted_truth,
    prototypes,
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
    "pairs": "Duplicates",
    "truth": "Planted truth",
    "prototypes": "Confounders",
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
    title = f"{student}, distilled from {teacher} with images from the web"
    sections = [part for part in (make(evidence) for make in SECTIONS) if part]
    shown = [name for name in MENU if any(f'<section id="{name}">' in s for s in sections)]
    menu = [tag("a", MENU[name], href=f"#{name}") for name in shown]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    body = tag(
        "body",
        tag("nav", *menu),
        tag(
            "header",
            tag("p", "webdistill report", class_="over"),
            tag("h1", title),
            tag("p", f"Classes: {_shortened(evidence.classes)}.", class_="lead"),
            tag("p", BANNER, class_="note") if evidence.truth is not None else None,
            glance(evidence, set(shown)),
        ),
        tag("main", join(sections, "\n")),
        tag(
            "footer",
            "Made by the report stage of webdistill. This file loads nothing and runs no script.",
        ),
    )
    return f'<!doctype html>\n<html lang="en">{head}\n{body}</html>\n'


def _shortened(classes: Sequence[str], most: int = 12) -> str:
    return ", ".join(classes[:most]) + (
        f" and {len(classes) - most} more" if len(classes) > most else ""
    )
