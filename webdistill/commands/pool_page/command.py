"""The report's sections about the pool, without what only a finished training knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.filter.calibration import threshold
from stages.report.evidence import Evidence, Measured
from stages.report.gather import collect
from stages.report.html import tag
from stages.report.page import document, shortened
from stages.report.sections.cautions import pool_cautions
from stages.report.sections.fit import fit
from stages.report.sections.funnel import funnel
from stages.report.sections.glance import fit_line, pool_line
from stages.report.sections.pairs import pairs
from stages.report.sections.sources import sources
from stages.report.sections.thresholds import thresholds
from webdistill.commands.pool_page.quantiles import candidates
from webdistill.core.errors import UserError
from webdistill.core.files import check_manifest, digest
from webdistill.harness import params

SHOWN = (  # decide which pictures the page shows: `prove-absent` looks whether it is of today's
    "data/filter/kept.parquet",
    "data/filter/dropped.parquet",
    "data/select/selection.parquet",
)
NOTHING = Measured({}, {}, {}, [], [], [], {}, {}, {})  # there is no student yet


def write(settings_file: Path, target: Path) -> None:
    """Raises UserError for an output of a stage that is not there."""
    settings = params.load(settings_file)
    evidence = Evidence(
        classes=settings.task.classes,
        collected=collect(opened, settings.task.test_images, {}),
        measured=NOTHING,
        params={name: model.model_dump(mode="json") for name, model in settings.sections.items()},
        flat=settings.flat(),
        inputs={name: digest(opened(name)) for name in SHOWN},
        kept=[],
        truth=None,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    chosen, scored = settings.raw["filter"], opened("data/embed/scores.parquet")
    found = {
        "filter.min_score": threshold(chosen["min_score"], scored, "score"),
        "filter.min_margin": threshold(chosen["min_margin"], scored, "margin"),
    }
    target.write_text(page(evidence, found), encoding="utf-8")


def opened(name: str) -> Path:
    """An output of a stage, or the test images."""
    path = Path(name)
    if not path.exists():
        made = path.parts[0] == "data" and len(path.parts) > 2 and path.parts[1] in params.STAGES
        fix = "run `dvc repro select`" if made else "check the path in params.yaml"
        raise UserError(f"{name} does not exist; {fix}")
    if path.is_dir():
        check_manifest(path)
    return path


def page(evidence: Evidence, found: Mapping[str, float]) -> str:
    """The page as one HTML document; `found`: thresholds that the pool itself decides."""
    collected, classes = evidence.collected, evidence.classes
    made_from = "".join(f"; {name} has sha256 {made}" for name, made in evidence.inputs.items())
    sections = [
        funnel(evidence),
        fit(evidence),
        thresholds(evidence),
        candidates(evidence, found),
        pairs(evidence),
        sources(evidence),
    ]
    return document(
        f"A pool of {len(collected.scores):,} images for {len(classes)} classes",
        [
            tag("p", f"Classes: {shortened(classes)}.", class_="lead"),
            *(tag("p", text, class_="note") for text in pool_cautions(collected, classes)),
            tag("p", pool_line(evidence)),
            tag("p", fit_line(evidence)),
        ],
        [part for part in sections if part],
        (
            "webdistill pool-page",
            f"Made by `webdistill pool-page`, before any training{made_from}.",
        ),
    )
