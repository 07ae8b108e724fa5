"""python -m stages.filter"""

from __future__ import annotations

from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    """Pool, ledger, scores and test images -> which images stay, and why the others do not."""
    from stages.filter import judging, results
    from stages.filter.closer import Large
    from stages.filter.evidence import gather
    from stages.filter.listed import unstated
    from stages.filter.rules import check_some_left
    from stages.filter.thumbnails import Thumbnails

    files = sorted(stage.input("data/fetch/pool").glob("*.parquet"))
    tests, work, threads = stage.input(stage.task.test_images), stage.work, stage.task.threads
    with (
        Thumbnails(work) as thumbnails,
        Large(files, work, threads) as pool,
        Large([tests], work, threads) as test,
    ):
        evidence = gather(stage, thumbnails, (pool, test))
        decision = judging.judge(evidence, stage.params, stage.task.threads)
        check_some_left(decision)
        found = {"min_score": evidence.min_score, "min_margin": evidence.min_margin}
        results.write(stage, evidence.pictures.ids, decision, found)
        results.show(stage, thumbnails, decision)
        if idle := ", ".join(map(str, evidence.papers.idle)):
            stage.log(f"takedown.txt: no candidate is meant by line {idle}; check the spelling")
        for line in unstated(evidence.listed, stage.params):
            stage.log(line)


if __name__ == "__main__":
    run("filter", main)
