"""The second look within the stage: large pictures of one layout stay, their copies go, small ones as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.filter.closer import Closer, Large
from tests.images.planted import jpeg, natural
from tests.stages.filter_project import finish, name, png, stage_for
from webdistill.core.errors import UserError
from webdistill.images.copies import Pairs
from webdistill.images.details import SIDE
from webdistill.images.pool import PoolRow, write_pool


def layouts(count: int, side: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures, and others of the same layout: equal in what is left of them at 32 px, nearly."""
    one, two = (np.stack([np.asarray(i, float) for i in natural(count, s, side)]) for s in (1, 2))
    waves = np.fft.fftfreq(side) * side
    radius = np.hypot(*np.meshgrid(waves, waves))[..., None]
    low, high = (np.fft.fft2(x, axes=(1, 2)) for x in (one, two))
    mixed = np.fft.ifft2(np.where(radius < 9, low, 2 * high), axes=(1, 2)).real
    pixels = np.clip(mixed, 0, 255).astype(np.uint8)
    return [Image.fromarray(x.astype(np.uint8)) for x in one], [Image.fromarray(x) for x in pixels]


@pytest.mark.parametrize("side", [144, 80])
def test_pictures_of_one_layout_are_no_duplicates_where_they_are_large(
    place: Path, side: int
) -> None:
    """The copy of the first goes in any case; small ones have no details, so there the first look decides."""
    first, same = layouts(4, side)
    copy = jpeg(ImageOps.mirror(first[0]), 60)
    images = [*first, *same, copy]
    score = [0.9] * 4 + [0.8] * 4 + [0.7]
    kept, dropped = finish(stage_for(place, images, score=score, duplicate_similarity=0.85))
    assert dropped[name(8)]["other"] == name(0)
    assert {row["reason"] for row in dropped.values()} == {"duplicate"}
    assert len(kept) == (8 if side == 144 else 4)


@pytest.mark.parametrize("side", [144, 80])
def test_nor_are_they_leaks(place: Path, side: int) -> None:
    first, same = layouts(4, side)
    stranger = natural(1, seed=9, side=side)
    images = [*same, cropped(first[0]), jpeg(ImageOps.mirror(first[1]), 40), *stranger]
    _, dropped = finish(stage_for(place, images, test=first, leak_similarity=0.85))
    assert {dropped[name(4)]["other"], dropped[name(5)]["other"]} == {"t0", "t1"}
    assert len(dropped) == (2 if side == 144 else 6)


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((3, 2, width - 4, height - 5))


def test_rows_are_those_of_all_shards_and_small_pictures_are_passed_by(tmp_path: Path) -> None:
    images = natural(7, seed=3, side=120)
    images[2] = images[2].resize((SIDE - 1, 120))
    rows = (PoolRow(name(i), png(x), *x.size, "", "") for i, x in enumerate(images))
    write_pool(rows, tmp_path / "pool", 3)
    files = sorted((tmp_path / "pool").glob("*.parquet"))
    assert len(files) == 3
    with Large(files, tmp_path / "work", 2) as large:
        asked = np.array([6, 2, 0, 6])
        assert large.read(asked).tolist() == [True, False, True, True]
        found = large[asked[[0, 2, 3]]]
        assert np.array_equal(found[0], found[2])
        whole = np.asarray(images[6].convert("L").resize((SIDE, SIDE), 3), float)
        assert np.abs(found[0] - whole).mean() < 3
        assert large.read(np.array([5])).all(), "more of them later"
        assert not np.array_equal(large[np.array([5])], found[:1])
        assert np.array_equal(large[asked[[0, 2]]], found[:2])
    assert not list((tmp_path / "work").iterdir())


def test_what_was_seen_to_be_the_same_is_not_looked_at_again(tmp_path: Path) -> None:
    with Large([tmp_path / "none.parquet"], tmp_path, 1) as large:
        nothing = np.zeros(2, np.int64)
        pairs = Pairs(nothing, nothing, np.array([0.999, 0.995]))
        assert Closer(large, large, 0.9, 1)(pairs).all()


def test_a_damaged_picture_is_one_line(tmp_path: Path) -> None:
    write_pool([PoolRow(name(0), b"no picture", 120, 120, "", "")], tmp_path / "pool", 3)
    files = sorted((tmp_path / "pool").glob("*.parquet"))
    with Large(files, tmp_path / "work", 1) as large, pytest.raises(UserError, match="row 0"):
        large.read(np.array([0]))
