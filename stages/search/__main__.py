from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    from stages.search.candidates import find_candidates
    from webdistill.core.files import sha256_file, write_table

    path = stage.input(stage.params.list)
    found = find_candidates(path, stage.params.columns, stage.task.classes)
    with stage.output("candidates.parquet") as out:
        header = {
            "list": stage.params.list,
            "list_sha256": sha256_file(path),
            "image_column": found.image_column,
        }
        write_table(found.table, out, header)
    stage.metrics(found.counts)
    stage.log(
        f"{found.table.num_rows:,} candidates from {found.counts['rows']:,} rows of {stage.params.list}"
    )


if __name__ == "__main__":
    run("search", main)
