from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    from stages.fetch.candidates import read_candidates
    from stages.fetch.crawl import Crawl
    from stages.fetch.ledger import Ledger
    from stages.fetch.summary import failures, table, write_failures
    from webdistill.core.files import write_table
    from webdistill.core.progress import progress
    from webdistill.images.pool import write_pool

    candidates = read_candidates(stage.input("data/search/candidates.parquet"), stage.input)
    for folder in sorted({held.path.parent for held in candidates.held.values() if held.apart}):
        stage.check_declared(folder)
    crawl = Crawl(candidates, stage.params, stage.work, stage.scratch(), stage.task.threads)
    if crawl.known:
        stage.log(f"{crawl.known:,} of {len(candidates):,} are known from an earlier run")
    for _ in progress(
        crawl.run(),
        total=crawl.left,
        unit="img",
        label="fetch",
        size=int,
        note=crawl.tally.note,
    ):
        pass
    ledger = Ledger(candidates)
    with stage.output("pool") as folder:
        stored = write_pool(ledger.settle(crawl.outcomes()), folder, stage.params.shard_size)
    with stage.output("ledger.parquet") as path:
        write_table(ledger.table(), path)
    failed = failures(ledger.table())
    with stage.output("failures.csv") as path:
        write_failures(failed, path)
    stage.metrics(ledger.metrics())
    stage.when_published(crawl.clean)
    for line in table(failed):
        stage.log(line)
    stage.log(f"{stored:,} images in the pool from {len(candidates):,} candidates")


if __name__ == "__main__":
    run("fetch", main)
