"""Filter: each rule with its value, their order, and the readable end when nothing is left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from stages.filter import rules
from stages.filter.__main__ import main
from stages.filter.params import Filter
from stages.search.found import SCORES
from tests.stages.filter_project import finish, name, photo, stage_for
from webdistill.core.errors import UserError
from webdistill.core.files import write_table
from webdistill.harness.params import load

ROOT = Path(__file__).parents[2]


def test_every_reason_with_its_value_and_threshold(place: Path) -> None:
    """One image for each reason; the first is good, the second its copy with a lower score, the last one too many."""
    images = [
        photo(0), photo(0).resize((70, 70)), photo(1), photo(2), ImageOps.mirror(photo(50)).resize((64, 64)),
        photo(3), photo(4), photo(5, 10), photo(6).resize((90, 30)), Image.new("RGB", (40, 40), (9, 9, 9)),
        two_levels(), photo(7), photo(8), photo(9), *map(photo, range(10, 15)),
    ]  # fmt: skip
    score, margin = [0.5] * 19, [0.5] * 19
    listed = {
        column: [0.5] * 14 + [0.5] * n + [0.9] + [0.5] * (4 - n)
        for n, column in enumerate(SCORES[:3])
    }
    listed |= {
        column: [0.5] * n + [0.1] + [0.5] * (18 - n)
        for n, column in ((17, "aesthetic"), (18, "similarity"))
    }
    score[0], score[1], score[11], score[13] = 0.7, 0.6, 0.1, 0.4
    margin[12] = -0.2
    licence = {i: ("CC BY 4.0", "") for i in range(19) if i != 5} | {5: ("CC BY-ND 2.0", "")}
    stage = stage_for(
        place, images, opted_out=[3], test=[photo(60), photo(50)], score=score, margin=margin,
        unsafe=[0.9 if i == 6 else 0.1 for i in range(19)], licence=licence, takedown="# x\nhost:host2.org\n",
        min_side=16, max_aspect=2.5, min_contrast=2.0, leak_similarity=0.88, licences=("by", "CC0"),
        max_unsafe=0.5, min_entropy=2.0, min_score=0.2, min_margin=0.0, duplicate_similarity=0.88, per_class=1,
        max_punsafe=0.6, max_nsfw=0.6, max_pwatermark=0.6, min_aesthetic=0.4, min_similarity=0.4, listed=listed,
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(0)]
    assert {i: dropped[name(i)]["reason"] for i in range(1, 19)} == dict(
        zip(
            [2, 3, 6, 14, 15, 4, 5, 7, 8, 9, 10, 16, 17, 18, 11, 12, 1, 13],
            rules.REASONS,
            strict=True,
        )
    )
    values = {
        d["reason"]: (d["value"], d["threshold"], d["other"], d["detail"]) for d in dropped.values()
    }
    assert values["takedown"] == (1, 0, "", "takedown.txt line 2")
    assert values["opt_out"] == (1, 0, "", "noai")
    assert values["licence"] == (0, 1, "", "by-nd")
    assert values["unsafe"] == (pytest.approx(0.9), 0.5, "", "")
    assert values["punsafe"] == values["nsfw"] == values["pwatermark"] == (0.9, 0.6, "", "")
    assert values["low_aesthetic"] == values["low_similarity"] == (0.1, 0.4, "", "")
    assert values["too_small"] == (10, 16, "", "")
    assert values["elongated"] == (3, 2.5, "", "")
    assert values["blank"] == (0, 2, "", "")
    assert values["low_entropy"] == (pytest.approx(1), 2, "", "")
    assert values["low_score"] == (pytest.approx(0.1), 0.2, "", "")
    assert values["low_margin"] == (pytest.approx(-0.2), 0, "", "")
    assert values["class_cap"] == (2, 1, "", "")
    assert values["leak"][2] == "t1"
    assert values["duplicate"][2] == name(0)
    assert min(values["leak"][0], values["duplicate"][0]) > 0.95
    metrics = json.loads((place / "data/filter/metrics.json").read_text())
    thresholds = {"min_score": 0.2, "min_margin": 0.0}
    counts = {f"dropped_{r}": 1 for r in rules.REASONS}
    assert metrics == {"images": 19, "kept": 1, **counts, **thresholds}


def two_levels() -> Image.Image:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, ::2] = 200
    return Image.fromarray(pixels)


def test_the_cap_keeps_the_best_of_each_class_that_the_other_rules_leave(place: Path) -> None:
    images = [photo(0), photo(0).resize((60, 60)), *[photo(i) for i in range(1, 7)]]
    stage = stage_for(
        place, images, keyword=[0, 0, 0, 0, 1, -1, -1, -1], score=[0.9, 0.8, 0.5, 0.7, 0.1, 0.3, 0.3, 0.3],
        duplicate_similarity=0.88, per_class=2,
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(i) for i in (0, 3, 4, 5, 6)]
    assert {n: (d["reason"], d["value"]) for n, d in dropped.items() if n != name(1)} == {
        name(2): ("class_cap", 3),
        name(7): ("class_cap", 3),  # of equal scores the larger id
    }


def test_thresholds_are_inclusive_and_order_decides(place: Path) -> None:
    stage = stage_for(
        place, [photo(i) for i in range(3)], score=[0.25, 0.125, 0.125], margin=[0.25, 0.125, 0.5],
        min_score=0.25, min_margin=0.25,
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(0)]
    assert {d["reason"] for d in dropped.values()} == {"low_score"}


def test_a_percentile_is_of_the_pool_under_other_keywords(place: Path) -> None:
    """Of 0, .1, ... .4 half lie below .2 and three quarters below .3, whatever the numbers of this CLIP are."""
    others = [0.4, 0.1, 0.0, 0.3, 0.2]
    stage = stage_for(
        place, [photo(i) for i in range(5)], score=[0.19, 0.2, 0.21, 0.5, 0.5], margin=[1, 1, 1, 0.29, 0.31],
        other={"score": others, "margin": others}, min_score="50%", min_margin="75%",
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(1), name(2), name(4)]
    assert [d["reason"] for d in dropped.values()] == ["low_score", "low_margin"]
    metrics = json.loads((place / "data/filter/metrics.json").read_text())
    found = [d["threshold"] for d in dropped.values()]
    assert found == [metrics["min_score"], metrics["min_margin"]] == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (0.25, 0.2), (3.0, -0.5)])
def test_a_clip_with_other_numbers_keeps_the_same_pictures(
    place: Path, factor: float, offset: float
) -> None:
    rng = np.random.default_rng(0)
    score, other = rng.normal(0.1, 0.05, 30), rng.normal(0.05, 0.05, 30)
    stage = stage_for(
        place, [photo(i) for i in range(30)], score=(factor * score + offset).tolist(),
        other={"score": (factor * other + offset).tolist()}, min_score="40%",
    )  # fmt: skip
    kept, _ = finish(stage)
    assert kept == [name(i) for i in range(30) if score[i] > np.percentile(other, 40)]
    assert 0 < len(kept) < 30


def test_a_percentile_without_pictures_drops_none(place: Path) -> None:
    main(stage_for(place, [], other={"score": [], "margin": []}, min_score="50%"))


@pytest.mark.parametrize("wrong", ["101%", "half", "-1%", 1.5])
def test_a_threshold_that_is_none_names_the_key(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"filter\.min_score = "):
        load(ROOT / "params.yaml", [f"filter.min_score={json.dumps(wrong)}"])


def test_loose_thresholds_keep_everything(place: Path) -> None:
    images = [photo(0), photo(0).resize((50, 50)), Image.new("RGB", (4, 4)), photo(1)]
    kept, dropped = finish(stage_for(place, images, test=[photo(1)]))
    assert (len(kept), dropped) == (4, {})


def test_nothing_left_names_the_key(place: Path) -> None:
    images = [photo(0), photo(1), photo(2, 10)]
    stage = stage_for(place, images, score=[0.1, 0.2, 0.9], min_score=0.3, min_side=20)
    with pytest.raises(UserError, match=r"low_score 2.*loosen filter\.min_score") as caught:
        main(stage)
    assert "too_small 1" in str(caught.value)
    assert not (place / "data/filter").exists()


def test_of_an_empty_pool_nothing_is_kept(place: Path) -> None:
    """It stops the method that needs images, and no other."""
    stage = stage_for(place, [])
    main(stage)
    stage.publish()
    assert pq.read_table(place / "data/filter/kept.parquet").num_rows == 0


def test_scores_of_another_pool_are_refused(place: Path) -> None:
    stage = stage_for(place, [photo(0), photo(1)])
    table = pq.read_table("data/embed/scores.parquet")
    write_table(table.take([1, 0]), place / "data/embed/scores.parquet")
    with pytest.raises(UserError, match="of another pool"):
        main(stage)


def test_every_reason_has_a_key() -> None:
    assert tuple(rules.KEYS) == rules.REASONS
    for reason, text in rules.KEYS.items():
        keys = re.findall(r"filter\.(\w+)", text)
        assert keys or reason in ("takedown", "opt_out")
        assert set(keys) <= set(Filter.model_fields)
