from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    from stages.fetch.candidates import read_candidates
    from stages.fetch.crawl import Crawl
    from stages.fetch.ledger import count_statuses, ledger_table, settle
    from stages.fetch.outcomes import Outcome
    from webdistill.core.files import write_table
    from webdistill.images.pool import write_pool

    candidates = read_candidates(stage.input("data/search/candidates.parquet"), stage.input)
    crawl = Crawl(
        candidates, stage.params, stage.work / "chunks", stage.scratch(), stage.task.threads
    )
    for _ in stage.progress(crawl.run(), total=len(candidates), unit="img", size=int):
        pass
    ledger: list[Outcome] = []
    with stage.output("pool") as folder:
        stored = write_pool(
            settle(crawl.outcomes(), candidates, ledger), folder, stage.params.shard_size
        )
    with stage.output("ledger.parquet") as path:
        write_table(ledger_table(candidates, ledger), path)
    stage.metrics(count_statuses(ledger))
    stage.when_published(crawl.clean)
    stage.log(f"{stored:,} images in the pool from {len(candidates):,} candidates")


if __name__ == "__main__":
    run("fetch", main)
