"""Filter: each rule, their order, duplicates and leaks, and the readable end when nothing is left."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from stages.filter import duplicates, rules
from stages.filter.__main__ import main
from stages.filter.params import Filter
from webdistill.core.errors import UserError
from webdistill.core.files import write_manifest, write_table
from webdistill.core.params import Params, Task
from webdistill.core.stage import Stage
from webdistill.images.hashes import Pairs
from webdistill.images.pool import IMAGE_TYPE, PoolRow, write_pool

LOOSE = {
    "min_side": 1, "max_aspect": 100.0, "min_contrast": 0.0, "leak_similarity": 1.01,
    "min_score": -1.0, "min_margin": -2.0, "duplicate_similarity": 1.01,
}  # fmt: skip


def photo(seed: int, side: int = 40) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def name(i: int) -> str:
    return f"{i:032x}"


def stage_for(
    place: Path,
    images: Sequence[Image.Image],
    *,
    score: Sequence[float] | None = None,
    margin: Sequence[float] | None = None,
    opted_out: Sequence[int] = (),
    test: Sequence[Image.Image] = (),
    **settings: float,
) -> Stage:
    """A stage in the current folder over a pool of these images, called name(0), name(1), ..."""
    count = len(images)
    pool = place / "data/fetch/pool"
    write_pool(
        (PoolRow(name(i), png(x), *x.size, "cat", "") for i, x in enumerate(images)), pool, 3
    )
    write_manifest(pool)
    ids = [name(i) for i in range(count)]
    columns = {
        "id": ids,
        "score": pa.array(score or [0.5] * count, pa.float32()),
        "margin": pa.array(margin or [0.5] * count, pa.float32()),
    }
    (place / "data/embed").mkdir(parents=True)
    write_table(pa.table(columns), place / "data/embed/scores.parquet")
    flags = ["noai" if i in opted_out else "" for i in range(count)]
    ledger = pa.table({"id": [*ids, "", *ids], "opt_out": [*flags, "noai", *[""] * count]})
    write_table(ledger, place / "data/fetch/ledger.parquet")
    pictures = pa.array([{"bytes": png(x), "path": ""} for x in test], IMAGE_TYPE)
    names = pa.array([f"t{i}" for i in range(len(test))], pa.string())
    write_table(pa.table({"id": names, "image": pictures}), place / "test.parquet")
    task = Task(
        seed=0, threads=1, classes=("cat", "dog"), image_size=32,
        teacher="", test_images="test.parquet", test_labels="",
    )  # fmt: skip
    return Stage("filter", Params(task, {"filter": Filter(**{**LOOSE, **settings})}, {}), None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(stage: Stage) -> tuple[list[str], dict[str, dict]]:
    main(stage)
    stage.publish()
    dropped = pq.read_table("data/filter/dropped.parquet").to_pylist()
    return pq.read_table("data/filter/kept.parquet")["id"].to_pylist(), {
        d["id"]: d for d in dropped
    }


def test_every_reason_with_its_value_and_threshold(place: Path) -> None:
    images = [
        photo(0), photo(1), photo(2, 10), photo(3).resize((90, 30)), Image.new("RGB", (40, 40), (9, 9, 9)),
        ImageOps.mirror(photo(50)).resize((64, 64)), photo(6), photo(7), photo(0).resize((70, 70)),
    ]  # fmt: skip
    stage = stage_for(
        place, images, opted_out=[1], test=[photo(60), photo(50)],
        score=[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.5, 0.4],
        margin=[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.2, 0.5],
        min_side=16, max_aspect=2.5, min_contrast=2.0, leak_similarity=0.88,
        min_score=0.2, min_margin=0.0, duplicate_similarity=0.88,
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(0)]
    assert [dropped[name(i)]["reason"] for i in range(1, 9)] == [
        "opt_out", "too_small", "elongated", "blank", "leak", "low_score", "low_margin", "duplicate",
    ]  # fmt: skip
    values = {d["reason"]: (d["value"], d["threshold"], d["other"]) for d in dropped.values()}
    assert values["too_small"] == (10, 16, "")
    assert values["elongated"] == (3, 2.5, "")
    assert values["blank"] == (0, 2, "")
    assert values["low_score"] == (pytest.approx(0.1), 0.2, "")
    assert values["low_margin"] == (pytest.approx(-0.2), 0, "")
    assert values["leak"][2] == "t1"
    assert values["duplicate"][2] == name(0)
    assert min(values["leak"][0], values["duplicate"][0]) > 0.95
    metrics = json.loads((place / "data/filter/metrics.json").read_text())
    assert metrics == {"images": 9, "kept": 1, **{f"dropped_{r}": 1 for r in rules.REASONS}}


def test_thresholds_are_inclusive_and_order_decides(place: Path) -> None:
    stage = stage_for(
        place, [photo(i) for i in range(3)], score=[0.25, 0.125, 0.125], margin=[0.25, 0.125, 0.5],
        min_score=0.25, min_margin=0.25,
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(0)]
    assert {d["reason"] for d in dropped.values()} == {"low_score"}


def test_loose_thresholds_keep_everything(place: Path) -> None:
    images = [photo(0), photo(0).resize((50, 50)), Image.new("RGB", (4, 4)), photo(1)]
    kept, dropped = finish(stage_for(place, images, test=[photo(1)]))
    assert (len(kept), dropped) == (4, {})


def test_the_better_scored_copy_stays(place: Path) -> None:
    images = [photo(0), photo(1), photo(0).resize((60, 60)), ImageOps.mirror(photo(0))]
    kept, dropped = finish(
        stage_for(place, images, score=[0.5, 0.5, 0.9, 0.6], duplicate_similarity=0.88)
    )
    assert kept == [name(1), name(2)]
    assert {d["other"] for d in dropped.values()} == {name(2)}


def test_a_copy_outlives_an_original_that_another_rule_drops(place: Path) -> None:
    images = [photo(0), photo(0).resize((60, 60))]
    kept, _ = finish(stage_for(place, images, opted_out=[0], duplicate_similarity=0.88))
    assert kept == [name(1)]


def test_a_chain_keeps_one(place: Path) -> None:
    pairs = Pairs(np.array([0, 1, 4]), np.array([1, 2, 5]), np.array([0.9, 0.95, 1.0]))
    ids = [name(9 - i) for i in range(6)]
    verdict = duplicates.keep_one(pairs, ids, np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5]), 0.88)
    assert verdict.drop.tolist() == [True, True, False, False, True, False]
    assert verdict.value.tolist() == [0.9, 0.95, 0.95, 0, 1, 1]
    assert verdict.other == [ids[2], ids[2], "", "", ids[5], ""]


def test_nothing_left_names_the_key(place: Path) -> None:
    images = [photo(0), photo(1), photo(2, 10)]
    stage = stage_for(place, images, score=[0.1, 0.2, 0.9], min_score=0.3, min_side=20)
    with pytest.raises(UserError, match=r"low_score 2.*loosen filter\.min_score") as caught:
        main(stage)
    assert "too_small 1" in str(caught.value)
    assert not (place / "data/filter").exists()


def test_an_empty_pool_is_told(place: Path) -> None:
    with pytest.raises(UserError, match="holds no image"):
        main(stage_for(place, []))


def test_scores_of_another_pool_are_refused(place: Path) -> None:
    stage = stage_for(place, [photo(0), photo(1)])
    table = pq.read_table("data/embed/scores.parquet")
    write_table(table.take([1, 0]), place / "data/embed/scores.parquet")
    with pytest.raises(UserError, match="of another pool"):
        main(stage)


def test_every_reason_has_a_key() -> None:
    assert tuple(rules.KEYS) == rules.REASONS
    for reason, key in rules.KEYS.items():
        assert reason == "opt_out" or key.removeprefix("filter.") in Filter.model_fields
