"""python -m stages.filter"""

from __future__ import annotations

from webdistill.core.stage import Stage, run

THUMBNAIL = 32  # px; finer ones find the same duplicates more slowly
SHOWN = 200  # images on each of the two contact sheets that tracking keeps


def main(stage: Stage) -> None:
    """Pool, scores and test images -> which images stay, and why the others do not."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.filter import duplicates, rules
    from webdistill.core.errors import UserError
    from webdistill.core.files import read_table, write_table
    from webdistill.images.hashes import contrast
    from webdistill.images.pool import load_images
    from webdistill.images.sheet import contact_sheet

    task, settings = stage.task, stage.params
    pool = stage.input("data/fetch/pool")
    scores = read_table(stage.input("data/embed/scores.parquet"), ["id", "score", "margin"])
    ledger = read_table(stage.input("data/fetch/ledger.parquet"), ["id", "opt_out"])
    test_ids, test = load_images(stage.input(task.test_images), None, THUMBNAIL, task.threads)
    ids, thumbnails = load_images(pool, None, THUMBNAIL, task.threads)
    if scores["id"].to_pylist() != ids:
        raise UserError(
            "data/embed/scores.parquet is of another pool than data/fetch/pool; run `dvc repro filter`"
        )
    sizes = [read_table(p, ["width", "height"]) for p in sorted(pool.glob("*.parquet"))]
    width, height = (
        np.concatenate([np.empty(0), *(table[name].to_numpy() for table in sizes)])
        for name in ("width", "height")
    )
    score, margin = (scores[name].to_numpy().astype(np.float64) for name in ("score", "margin"))
    refused = set(ledger.filter(pc.not_equal(ledger["opt_out"], ""))["id"].to_pylist()) - {""}

    verdicts = [
        rules.opt_out(ids, refused),
        duplicates.leaks(thumbnails, test, test_ids, settings.leak_similarity, task.threads),
        rules.too_small(width, height, settings.min_side),
        rules.elongated(width, height, settings.max_aspect),
        rules.blank(contrast(thumbnails).astype(np.float64), settings.min_contrast),
        rules.low_score(score, settings.min_score),
        rules.low_margin(margin, settings.min_margin),
    ]
    alive = rules.first_hit(verdicts, len(ids)).kept
    verdicts.append(
        duplicates.duplicates(
            thumbnails, ids, score, alive, settings.duplicate_similarity, task.threads
        )
    )
    decision = rules.first_hit(verdicts, len(ids))
    rules.check_some_left(decision)

    kept = [name for name, keep in zip(ids, decision.kept, strict=True) if keep]
    with stage.output("kept.parquet") as path:
        write_table(pa.table({"id": pa.array(kept, pa.string())}), path)
    with stage.output("dropped.parquet") as path:
        write_table(rules.dropped_table(ids, decision), path)
    # Opted-out images are shown to nobody.
    for label, where in (("kept", decision.kept), ("dropped", ~decision.kept & ~verdicts[0].drop)):
        places = np.flatnonzero(where)
        shown = places[:: max(len(places) // SHOWN, 1)][:SHOWN]
        stage.picture(f"{label}.png", contact_sheet(thumbnails[shown], columns=20))
    counts = decision.counts()
    stage.metrics(
        {"images": len(ids), "kept": len(kept), **{f"dropped_{r}": n for r, n in counts.items()}}
    )
    told = ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
    stage.log(f"{len(kept):,} of {len(ids):,} images kept; dropped: {told or 'none'}")


if __name__ == "__main__":
    run("filter", main)
