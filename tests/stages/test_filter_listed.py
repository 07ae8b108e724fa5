"""filter: scores that a list brings along, each with a threshold of its own."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.filter.rules import HIDDEN, KEYS, REASONS
from stages.select.scores import QUALITY
from tests.stages.filter_project import finish, name, photo, stage_for
from webdistill.core.errors import UserError
from webdistill.core.files import read_json

pytestmark = pytest.mark.usefixtures("place")

RULES = [
    ("max_punsafe", "punsafe", "punsafe"), ("max_nsfw", "nsfw", "nsfw"),
    ("max_pwatermark", "pwatermark", "pwatermark"), ("min_aesthetic", "aesthetic", "low_aesthetic"),
    ("min_similarity", "similarity", "low_similarity"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "column", "reason"), RULES)
def test_each_threshold_drops_with_its_reason(
    tmp_path: Path, key: str, column: str, reason: str
) -> None:
    images = [photo(n) for n in range(4)]
    stage = stage_for(tmp_path, images, listed={column: [0.2, 0.3, 0.4, None]}, **{key: 0.3})
    told: list[str] = []
    stage.log = told.append
    kept, dropped = finish(stage)
    gone = 2 if key.startswith("max") else 0
    assert kept == [name(n) for n in range(4) if n != gone], "what is not stated is not asked"
    row = dropped[name(gone)]
    assert (row["reason"], row["threshold"]) == (reason, 0.3)
    assert row["value"] == [0.2, 0.3, 0.4][gone]
    assert read_json(tmp_path / "data/filter/metrics.json")[f"dropped_{reason}"] == 1
    assert any(line.startswith(f"filter.{key} was not asked of 1 of 4 images") for line in told)


@pytest.mark.parametrize(("key", "column", "reason"), RULES)
def test_null_asks_nothing(tmp_path: Path, key: str, column: str, reason: str) -> None:
    stage = stage_for(tmp_path, [photo(0), photo(1)], listed={column: [0.0, 1.0]}, **{key: None})
    (tmp_path / "data/search/candidates.parquet").unlink()
    kept, _ = finish(stage)
    assert kept == [name(0), name(1)], "and reads nothing"


@pytest.mark.parametrize(("key", "column", "reason"), RULES)
def test_of_several_candidates_the_worst_counts_for_what_is_refused(
    tmp_path: Path, key: str, column: str, reason: str
) -> None:
    stage = stage_for(
        tmp_path, [photo(0), photo(1)], listed={column: [0.4, 0.4, 0.9, None]}, **{key: 0.5}
    )
    if key.startswith("max"):
        kept, dropped = finish(stage)
        assert (kept, [*dropped]) == ([name(1)], [name(0)])
    else:  # a caption elsewhere says nothing of this one
        with pytest.raises(UserError, match=rf"{reason} 2\); loosen filter\.{key}"):
            finish(stage)


def test_what_may_not_be_used_is_shown_to_nobody_and_in_no_control() -> None:
    assert {"punsafe", "nsfw"} <= HIDDEN
    assert not HIDDEN & set(QUALITY)
    assert set(QUALITY) >= {"pwatermark", "low_aesthetic", "low_similarity"}
    assert set(KEYS) == set(REASONS)


def test_another_list_is_refused(tmp_path: Path) -> None:
    stage = stage_for(tmp_path, [photo(0), photo(1)], max_punsafe=0.5)
    path = tmp_path / "data/search/candidates.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"run `dvc repro filter`"):
        finish(stage)
