"""python -m stages.select"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Eligible images, by rule and budget, become the selection."""
    import numpy as np

    from stages.select import rules, scores
    from stages.select.rules import Ints
    from webdistill.core.errors import UserError
    from webdistill.core.files import write_table

    task, settings = stage.task, stage.params
    folder = stage.input("data/score/teacher")
    kept = stage.input("data/filter/kept.parquet")
    dropped = stage.input("data/filter/dropped.parquet")
    embedded = stage.input("data/embed/scores.parquet")

    scored = scores.read_scored(sorted(folder.glob("*.parquet")), len(task.classes))
    pool = len(scored.ids)
    if settings.source == "kept":
        scored = scores.eligible_kept(scored, kept)
    else:
        scored = scores.eligible_pool(scored, kept, dropped)
    eligible = len(scored.ids)
    keyword = scores.keyword_classes(scored, embedded)
    if settings.agree:
        same = np.flatnonzero(scored.teacher_class == keyword)
        scored, keyword = scores.subset(scored, same), keyword[same]
    if pool and not len(scored.ids):
        raise UserError(
            f"no image is left to select from ({eligible} before select.agree); loosen the "
            "thresholds of filter" + (" or set select.agree: false" if settings.agree else "")
        )

    picked: Ints = np.arange(0)  # of an empty pool, which stops no method that makes its own images
    if pool:
        count = rules.amount(settings.budget, len(scored.ids))
        picked = rules.choose(settings.rule, scored, count, len(task.classes), task.seed)
    chosen = scores.subset(scored, picked)
    empty = scores.check_classes(chosen, scored, task.classes) if pool else []
    if empty and not settings.allow_empty_classes:
        raise UserError(
            f"no image selected for {len(empty)} of {len(task.classes)} classes: "
            f"{', '.join(empty[:10])}; search for more of them, loosen the filter, or set "
            "select.allow_empty_classes: true"
        )
    with stage.output("selection.parquet") as path:
        write_table(scores.selection(chosen, keyword[picked]), path)
    stage.metrics(scores.figures(chosen, eligible, keyword[picked], task.classes))

    if settings.rule != "all" and settings.budget > len(scored.ids):
        stage.log(
            f"warning: select.budget asks for {settings.budget:,} images, "
            f"only {len(scored.ids):,} are eligible"
        )
    stage.log(
        f"{len(chosen.ids):,} of {eligible:,} eligible images selected by rule '{settings.rule}'"
    )


if __name__ == "__main__":
    run("select", main)
