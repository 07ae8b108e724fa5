"""python -m stages.distill"""

from webdistill.core.stage import Stage, run


def main(stage: Stage) -> None:
    from stages.distill.export import export
    from stages.distill.training import prepare, train

    prepared = prepare(
        stage,
        selection=stage.input("data/select/selection.parquet"),
        pool=stage.input("data/fetch/pool"),
        teacher=stage.input(stage.task.teacher),
    )
    train(stage, prepared)
    export(stage, prepared)


if __name__ == "__main__":
    run("distill", main)
