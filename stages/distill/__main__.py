"""python -m stages.distill"""

from __future__ import annotations

from typing import TYPE_CHECKING

from webdistill.harness.stage import Stage, run

if TYPE_CHECKING:
    from stages.distill.training import Prepared


def main(stage: Stage) -> None:
    from stages.distill.export import export
    from stages.distill.group import shared
    from stages.distill.training import train

    prepared = prepared_of(stage)
    with shared(stage, prepared):
        train(stage, prepared)
    export(stage, prepared)


def prepared_of(stage: Stage) -> Prepared:
    from stages.distill.training import prepare

    return prepare(
        stage,
        selection=stage.input("data/select/selection.parquet"),
        pool=stage.input("data/fetch/pool"),
        teacher=stage.input(stage.task.teacher),
    )


if __name__ == "__main__":
    run("distill", main)
