"""The second look: copies pass it whatever was done to them; pictures of one layout do not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.near_duplicates import CHANGES, gray
from stages.filter.closer import DOUBT, SAME
from tests.images.planted import natural
from webdistill.images.copies import find_pairs
from webdistill.images.details import details
from webdistill.images.hashes import luminance
from webdistill.images.pool import square

REAL = Path(__file__).parents[3] / "shared/data/office_caltech/office_caltech_s144.parquet"


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return natural(12, seed=0, side=144)


@pytest.mark.parametrize("name", CHANGES)
def test_copies_agree_in_detail(name: str, originals: list[Image.Image]) -> None:
    copies = [CHANGES[name](image) for image in originals]
    assert details(gray(copies), gray(originals)).min() >= SAME


def test_the_order_of_a_pair_does_not_matter_nor_what_else_is_looked_at(
    originals: list[Image.Image],
) -> None:
    one, two = gray(originals[:6]), gray([CHANGES["cropped"](i) for i in originals[:6]])
    found = details(one, two)
    assert np.allclose(details(two, one), found, atol=1e-12)
    alone = np.concatenate([details(one[k : k + 1], two[k : k + 1]) for k in range(6)])
    assert np.allclose(alone, found, atol=1e-9)


def test_strangers_of_one_layout_do_not_agree() -> None:
    """Equal up to nine waves across the picture, different beyond."""
    one, two = (np.stack([np.asarray(i, float) for i in natural(10, s, 96)]) for s in (1, 2))
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(96) * 96, np.fft.fftfreq(96) * 96))[..., None]
    low, high = (np.fft.fft2(x, axes=(1, 2)) for x in (one, two))
    mixed = np.fft.ifft2(np.where(waves < 9, low, high), axes=(1, 2)).real
    mixed = np.clip(mixed, 0, 255).astype(np.uint8)
    both = one.astype(np.uint8), mixed
    small = [np.stack([np.asarray(Image.fromarray(x).resize((32, 32), 3)) for x in part]) for part in both]  # fmt: skip
    alike = find_pairs(*small, 0.8)
    assert (alike.query == alike.reference).sum() >= 8, "the first look takes them for copies"
    found = details(luminance(both[0]), luminance(both[1]))
    assert found.max() < SAME


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared")
def test_real_products_of_one_layout_are_told_apart_and_damaged_copies_are_not() -> None:
    """At 144 px: what the first look pairs although the classes differ is never a copy."""
    table = pq.read_table(REAL, columns=["image", "class", "domain"]).slice(0, 700)
    files, classes = table["image"].to_pylist(), table["class"].to_pylist()
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    small = np.stack([np.asarray(square(image, 32)) for image in images])
    pairs = find_pairs(small, None, 0.88)
    other = [k for k in range(len(pairs.query)) if classes[pairs.query[k]] != classes[pairs.reference[k]]]  # fmt: skip
    assert len(other) >= 3
    one, two = ([images[side[k]] for k in other] for side in (pairs.query, pairs.reference))
    assert details(gray(one), gray(two)).max() < DOUBT + 0.1 < SAME
    some = images[:15]
    for name, change in CHANGES.items():
        found = details(gray([change(image) for image in some]), gray(some))
        assert (found >= SAME).sum() >= 14, (name, found.round(2))
        assert (found >= DOUBT).all(), (name, found.round(2))
