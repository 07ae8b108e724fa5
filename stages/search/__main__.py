from webdistill.harness.stage import Stage, run


def main(stage: Stage) -> None:
    import json
    from itertools import chain

    from stages.search.asking import remote_rows
    from stages.search.candidates import collect
    from stages.search.folders import without_class
    from stages.search.keywords import Keywords
    from stages.search.local import open_local
    from stages.search.providers import chosen
    from webdistill.core.files import remove, write_table
    from webdistill.harness.wording import plural

    name, pages = stage.params.local, stage.work / "pages"
    keywords = Keywords(stage.task.classes, stage.params.keywords)
    local = open_local(stage.input(name), name, stage.params.columns, keywords)
    remote = remote_rows(chosen(stage.params), keywords, pages, stage.progress)
    found = collect(chain(local.rows(), remote), keywords, stage.params.negative)
    if not found.table.num_rows:
        stage.log(
            f"warning: {name} holds no candidate, neither a URL nor an image; check search.local, unless "
            "distill.method makes all images itself"
        )
    with stage.output("candidates.parquet") as out:
        header = {"local": name, "files": json.dumps(local.facts(found.table))}
        write_table(found.table, out, header)
    lost = local.lost()
    stage.metrics({**found.counts, "rows_unreadable": sum(one.count for one in lost.values())})
    stage.when_published(lambda: remove(pages))
    stage.log(
        f"{plural(found.table.num_rows, 'candidate')} from {plural(found.counts['rows'], 'row')}"
    )
    for one, rows in lost.items():
        for line in rows.told(one):
            stage.log(line)
    if told := without_class(found.table):
        stage.log(told)
    for reason, count in local.left_out.items():
        stage.log(f"{plural(count, reason)} in {name} left out")


def dry(stage: Stage) -> None:
    from stages.search.dry import overview

    for line in overview(stage):
        print(line)


if __name__ == "__main__":
    run("search", main, dry=dry)
