"""Duplicates: which copy stays, and what embeddings add to the search."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageOps

from stages.filter import duplicates
from stages.filter.__main__ import main
from tests.images.planted import natural
from tests.stages.filter_project import add_embeddings, finish, name, photo, stage_for
from webdistill.core.errors import UserError
from webdistill.images.copies import Pairs


@pytest.mark.parametrize("exact", [0, 20_000])
def test_neighbours_by_embedding_find_copies_cut_off_at_a_corner(
    place: Path, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.filter.embeddings.EXACT", exact)
    whole = natural(12, seed=8)
    images = [*whole, *[i.crop((7, 7, 64, 64)) for i in whole]]
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(12, 24))] * 2) + 0.05 * rng.normal(size=(24, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = []
    for number, neighbours in enumerate((0, 2)):
        inner = place / str(number)
        inner.mkdir()
        with contextlib.chdir(inner):
            stage = stage_for(
                inner, images, duplicate_similarity=0.88, embedding_neighbours=neighbours,
                opted_out=[1], score=[0.9] * 12 + [0.5] * 12,
            )  # fmt: skip
            add_embeddings(inner, vectors, 10)
            _, dropped = finish(stage)
        copies = {n: d["other"] for n, d in dropped.items() if d["reason"] == "duplicate"}
        assert copies.items() <= {(name(i + 12), name(i)) for i in range(12) if i != 1}
        counts.append(len(copies))
    assert counts[0] < 9 < counts[1]


def test_embeddings_of_another_pool_are_refused(place: Path) -> None:
    stage = stage_for(place, [photo(0), photo(1), photo(2)], embedding_neighbours=1)
    add_embeddings(place, np.eye(2), 2)
    with pytest.raises(UserError, match="embeddings is of another pool"):
        main(stage)


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
