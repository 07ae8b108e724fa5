"""python -m stages.filter"""

from __future__ import annotations

from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    """Pool, ledger, scores and test images -> which images stay, and why the others do not."""
    from stages.filter import judging, results
    from stages.filter.evidence import gather
    from stages.filter.rules import check_some_left
    from stages.filter.thumbnails import Thumbnails

    with Thumbnails(stage.work) as thumbnails:
        evidence = gather(stage, thumbnails)
        decision = judging.judge(evidence, stage.params, stage.task.threads)
        check_some_left(decision)
        results.write(stage, evidence.pictures.ids, decision)
        results.show(stage, thumbnails, decision)


if __name__ == "__main__":
    run("filter", main)
