"""Opens the inputs through the harness, so that each is checked and recorded with its digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from stages.report import evidence as read
from stages.report.columns import Columns, Names, names
from stages.report.ledger import read_ledger
from stages.report.pictures import Album
from webdistill.core.files import read_table
from webdistill.experiments import FOLDER, read_kept
from webdistill.harness.stage import Stage

TRUTH = ("row", "kind", "shift", "true_class", "keyword_right", "duplicate_of")


def gather(stage: Stage) -> read.Evidence:
    """All the page needs. Raises UserError naming what is missing."""
    task = stage.task
    sections = {"task": task, **stage.settings.sections}
    collected = collect(
        stage.input,
        task.test_images,
        read.read_nearest(stage.input("data/prototypes/assignment.parquet")),
    )
    return read.Evidence(
        classes=task.classes,
        collected=collected,
        measured=_measured(stage),
        kept=read_kept(stage.input(FOLDER)),
        params={
            name: section.model_dump(mode="json", exclude=section.idle())
            for name, section in sections.items()
        },
        flat={
            key: value
            for key, value in stage.settings.flat().items()
            if (path := key.split("."))[1] not in sections[path[0]].idle()
        },
        inputs=dict(stage.inputs),
        truth=read_table(stage.input("data/quickstart/truth.parquet"), TRUTH)
        if stage.params.truth
        else None,
    )


def collect(
    opened: Callable[[str], Path], tests: str, nearest: Mapping[int, Names]
) -> read.Collected:
    """The pool and what the stages up to `select` said of it; `opened` gives the path of an input."""
    folder = opened("data/fetch/pool")
    pool = sorted(folder.glob("*.parquet"))
    return read.Collected(
        ledger=read_ledger(opened("data/fetch/ledger.parquet")),
        scores=read.read_facts(opened("data/embed/scores.parquet"), pool),
        kept=Columns(names(read_table(opened("data/filter/kept.parquet"), ["id"])["id"])),
        dropped=read.read_drops(opened("data/filter/dropped.parquet")),
        teacher=read.read_teacher(sorted(opened("data/score/teacher").glob("*.parquet"))),
        selected=read.read_selected(opened("data/select/selection.parquet")),
        nearest=nearest,
        pool=Album(pool),
        tests=Album([opened(tests)]),
        shards=read.read_shards(folder),
    )


def _measured(stage: Stage) -> read.Measured:
    names = ("metrics.json", "per_class.csv", "confusion.csv", "calibration.csv")
    paths = {name: stage.input(f"data/evaluate/{name}") for name in names}
    return read.read_measured(
        paths,
        curve=stage.input("data/distill/curve.csv"),
        choices=stage.input("data/distill/selection_history.csv"),
        student=stage.input("data/distill/student") / "config.json",
        teacher=stage.input(f"{stage.task.teacher}/config.json"),
        pictures=stage.input("data/distill/pictures"),
        confounders=stage.input("data/distill/confounders.csv"),
        classes=stage.task.classes,
    )
