"""Opens the inputs through the harness, so that each is checked and recorded with its digest."""

from __future__ import annotations

from stages.report import evidence as read
from stages.report.pictures import Album
from webdistill.core.files import read_table
from webdistill.core.stage import Stage
from webdistill.kept import FOLDER, read_kept

LEDGER = ("row", "id", "url", "status", "licence", "licence_url", "creator", "landing_page")
TRUTH = ("row", "kind", "shift", "true_class", "keyword_right", "duplicate_of")


def gather(stage: Stage) -> read.Evidence:
    """All the page needs. Raises UserError naming what is missing."""
    task = stage.task
    folder = stage.input("data/fetch/pool")
    pool = sorted(folder.glob("*.parquet"))
    collected = read.Collected(
        ledger=read_table(stage.input("data/fetch/ledger.parquet"), LEDGER),
        scores=read.read_facts(stage.input("data/embed/scores.parquet"), pool),
        kept=read_table(stage.input("data/filter/kept.parquet"), ["id"]).column("id").to_pylist(),
        dropped=read.read_drops(stage.input("data/filter/dropped.parquet")),
        teacher=read.read_teacher(sorted(stage.input("data/score/teacher").glob("*.parquet"))),
        selected=read.read_selected(stage.input("data/select/selection.parquet")),
        nearest=read.read_nearest(stage.input("data/prototypes/assignment.parquet")),
        pool=Album(pool),
        tests=Album([stage.input(task.test_images)]),
        shards=read.read_shards(folder),
    )
    return read.Evidence(
        classes=task.classes,
        collected=collected,
        measured=_measured(stage),
        kept=read_kept(stage.input(FOLDER)),
        params={
            n: m.model_dump(mode="json")
            for n, m in {"task": task, **stage.settings.sections}.items()
        },
        flat=stage.settings.flat(),
        inputs=dict(stage.inputs),
        truth=read_table(stage.input("data/quickstart/truth.parquet"), TRUTH)
        if stage.params.truth
        else None,
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
        classes=stage.task.classes,
    )
