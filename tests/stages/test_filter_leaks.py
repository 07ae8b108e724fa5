"""Promise T3 through the stage: copies of test images in a pool, at the threshold that params.yaml ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.images.planted import COPIES, natural
from tests.stages.filter_project import finish, name, stage_for
from webdistill.harness.params import read_yaml

SHIPPED = read_yaml(Path(__file__).parents[2] / "params.yaml")["filter"]["leak_similarity"]
KINDS = ("framed", "cropped", "all")  # the hardest; all of them: tests/images/test_copies.py


def test_of_twenty_planted_copies_of_each_kind_nineteen_are_dropped_and_no_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tests, strangers = natural(20, seed=0), natural(10, seed=1)
    planted = [COPIES[kind](image) for kind in KINDS for image in tests]
    small = [image.resize((32, 32)) for image in tests]
    kept, dropped = finish(
        stage_for(tmp_path, [*planted, *strangers], test=small, leak_similarity=SHIPPED)
    )
    for kind, start in zip(KINDS, range(0, len(planted), 20), strict=True):
        found = [i for i in range(20) if name(start + i) in dropped]
        assert len(found) >= 19, kind
        assert all(dropped[name(start + i)]["other"] == f"t{i}" for i in found), kind
    assert {row["reason"] for row in dropped.values()} == {"leak"}
    assert {name(len(planted) + i) for i in range(10)} <= set(kept)
    measured = json.loads(Path("data/filter/metrics.json").read_text())
    assert measured["dropped_leak"] == len(dropped)
    assert measured["kept"] == len(kept)
