"""Development data -> a pool in which four images of five are good for nothing, its teacher and its test set.

    python -m pipelines.scarce.prepare

Writes pipelines/scarce/work/: list.parquet, teacher/ and test/ (all 10,000 CIFAR-10 test images).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.compare.prepare import LICENCE, development_data, write_teacher, write_test
from pipelines.shared.program import run_study
from webdistill.core.files import read_table, remove, write_table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Labels of Tiny-ImageNet that show one of CIFAR-10's classes: frogs, birds, dogs, cats, cars, ships, trucks and buses.
SHARED = (2, 3, 11, 20, 21, 22, *range(24, 34), 70, 94, 108, 115, 116, 121, 133, 145, 153, 164, 166)


def candidates(source: Path, right: int, foreign: int, classes: list[str], seed: int) -> pa.Table:
    """`right` of the quickstart's images whose keyword is right, `foreign` of other things with a keyword by lot."""
    web = read_table(ROOT / "data/quickstart/web.parquet", ["image", "query", "caption"])
    truth = read_table(ROOT / "data/quickstart/truth.parquet", ["kind"])
    useful = np.flatnonzero(pc.is_in(truth["kind"], pa.array(["clean", "shifted"])).to_numpy())
    rng = np.random.default_rng(seed)
    good = web.take(np.sort(rng.choice(useful, right, replace=False)))
    parts = [
        read_table(path, ["image", "label", "words"])
        for path in sorted((source / "tinyimagenet64").glob("train-*.parquet"))
    ]
    other = pa.concat_tables(parts)
    strange = np.flatnonzero(~np.isin(other["label"].to_numpy(), SHARED))
    bad = other.take(np.sort(rng.choice(strange, foreign, replace=False)))
    named = pa.array([classes[each] for each in rng.integers(len(classes), size=foreign)])
    columns = {"image": bad["image"], "query": named, "caption": bad["words"]}
    table = pa.concat_tables([good, pa.table(columns).cast(good.schema)])
    return table.append_column("licence", pa.array([LICENCE] * table.num_rows))


def prepare(settings: dict[str, Any]) -> None:
    """Write list.parquet, teacher/ and test/. Raises UserError when the source is not there."""
    own, out = settings["prepare"], HERE / "work"
    source = development_data(settings, ROOT, "scarce")
    remove(out)
    out.mkdir(parents=True)
    classes = list(settings["common"]["task"]["classes"])
    table = candidates(source, own["right"], own["foreign"], classes, own["seed"])
    write_table(table, out / "list.parquet")
    write_teacher(source, own["teacher"], classes, out / "teacher")
    write_test(source, out / "test")


if __name__ == "__main__":
    run_study(prepare)
