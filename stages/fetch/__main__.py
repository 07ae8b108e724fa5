from __future__ import annotations

from typing import TYPE_CHECKING

from webdistill.harness.stage import Stage, run

if TYPE_CHECKING:
    from stages.fetch.crawl import Crawl
    from stages.fetch.ledger import Ledger


def main(stage: Stage) -> None:
    from stages.fetch import sharing
    from stages.fetch.candidates import read_candidates
    from stages.fetch.crawl import Crawl
    from stages.fetch.ledger import Ledger, NothingCameError
    from webdistill.core.files import remove
    from webdistill.harness.wording import plural
    from webdistill.images.pool import write_pool

    candidates = read_candidates(stage.input("data/search/candidates.parquet"), stage.input)
    for folder in sorted({held.path.parent for held in candidates.held.values() if held.apart}):
        stage.check_declared(folder)
    sharing.share_out(stage, candidates, ask)
    crawl = Crawl(candidates, stage.params, stage.work, stage.scratch(), stage.task.threads)
    ask(stage, crawl, len(candidates))
    ledger = Ledger(candidates, stage.params.changed)
    try:
        with stage.output("pool") as folder:
            rows = ledger.settle(crawl.outcomes())
            stored = write_pool(rows, folder, stage.params.shard_size, stage.params.shard_bytes)
    except NothingCameError:
        report(stage, ledger)
        for empty_or_older in (folder, stage.data / "pool"):  # neither is this ledger's
            remove(empty_or_older)
        stage.publish()
        crawl.clean()  # so that a later run asks again for what jobs have found to fail
        sharing.forget(stage)
        raise
    report(stage, ledger)
    stage.when_published(crawl.clean)
    stage.when_published(lambda: sharing.forget(stage))
    stage.log(f"{plural(stored, 'image')} in the pool from {plural(len(candidates), 'candidate')}")


def ask(stage: Stage, crawl: Crawl, candidates: int) -> None:
    """Work through what is left of the candidates, and say what goes wrong."""
    from webdistill.harness.progress import progress

    if crawl.known:
        stage.log(f"{crawl.known:,} of {candidates:,} are known from an earlier run")
    for _ in progress(
        crawl.run(),
        total=crawl.left,
        unit="img",
        label="fetch",
        size=int,
        note=crawl.tally.note,
    ):
        for line in crawl.defects():
            stage.log(line)


def report(stage: Stage, ledger: Ledger) -> None:
    """The outputs that say what became of each candidate."""
    from stages.fetch.summary import failures, table, write_failures
    from webdistill.core.files import write_table
    from webdistill.harness.wording import plural
    from webdistill.web.intranet import VARIABLE

    with stage.output("ledger.parquet") as path:
        write_table(ledger.table(), path)
    failed = failures(ledger.table())
    with stage.output("failures.csv") as path:
        write_failures(failed, path)
    stage.metrics(ledger.metrics())
    for line in table(failed):
        stage.log(line)
    if own := ledger.own:
        stage.log(
            f"{plural(own, 'image')} came from hosts of the own network, which {VARIABLE} allows"
        )


if __name__ == "__main__":
    run("fetch", main)
