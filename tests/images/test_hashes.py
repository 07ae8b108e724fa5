"""Near-duplicate search on pictures with a natural (1/f) spectrum and planted copies."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from webdistill.images import hashes

SIDE, COUNT, THRESHOLD = 32, 300, 0.88


def natural(count: int, seed: int, side: int = 64) -> list[Image.Image]:
    """Random pictures whose amplitude falls as 1/f, like that of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    out = []
    for _ in range(count):
        noise = np.fft.fft2(rng.normal(size=(3, side, side)), axes=(1, 2)) / frequency
        noise[:, 0, 0] = 0
        field = np.fft.ifft2(noise, axes=(1, 2)).real
        field = 0.7 * field[:1] + 0.3 * field  # channels of photographs go together
        field = field / field.std() * 45 + 128
        out.append(Image.fromarray(np.clip(field, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    return out


def thumbs(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(i.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in images])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "enlarged": lambda i: i.resize((150, 150), Image.Resampling.BILINEAR),
    "shrunk": lambda i: i.resize((24, 24), Image.Resampling.LANCZOS),
    "mirrored": ImageOps.mirror,
    "recompressed": lambda i: jpeg(i, 30),
    "darker": lambda i: i.point(lambda v: int(v * 0.7)),
    "gray": lambda i: i.convert("L").convert("RGB"),
    "framed": lambda i: ImageOps.expand(i, 5, (255, 255, 255)),
    "cropped": lambda i: i.crop((1, 2, 63, 64)),
    "all": lambda i: jpeg(
        ImageOps.mirror(i).resize((48, 48)).point(lambda v: min(255, int(v * 1.15))), 50
    ),
}


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return natural(COUNT, seed=0)


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_strangers_are_not(change: str, originals: list[Image.Image]) -> None:
    copies = [COPIES[change](image) for image in originals[:100]]
    strangers = natural(200, seed=1)
    found = hashes.find_pairs(thumbs(copies + strangers), thumbs(originals), THRESHOLD)
    right = (found.query < 100) & (found.query == found.reference)
    assert right.sum() >= 97
    assert (~right).sum() == 0
    assert (found.similarity >= THRESHOLD).all()
    assert (found.similarity <= 1 + 1e-6).all()


def test_pairs_within_one_set_come_once(originals: list[Image.Image]) -> None:
    images = thumbs([*originals[:50], *[COPIES["mirrored"](i) for i in originals[:20]]])
    found = hashes.find_pairs(images, None, THRESHOLD)
    assert found.query.tolist() == list(range(20))
    assert found.reference.tolist() == list(range(50, 70))


def test_neither_threads_nor_block_size_matter(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = thumbs([*originals[:60], *[COPIES["all"](i) for i in originals[:60]]])
    one = hashes.find_pairs(images, None, 0.7, threads=1)
    monkeypatch.setattr(hashes, "BLOCK", 17)
    other = hashes.find_pairs(images, None, 0.7, threads=2)
    assert np.array_equal(one.query, other.query)
    assert np.array_equal(one.reference, other.reference)
    np.testing.assert_allclose(one.similarity, other.similarity, atol=1e-12)


def test_the_same_frame_is_not_the_same_picture() -> None:
    framed = [ImageOps.expand(i, 5, (0, 0, 160)) for i in natural(100, seed=3)]
    assert not len(hashes.find_pairs(thumbs(framed), None, THRESHOLD).query)


def test_blank_images_match_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((6, SIDE, SIDE, 3), 200, np.uint8)
    flat[3:] = rng.integers(199, 202, flat[3:].shape)
    assert not len(hashes.find_pairs(flat, None, 0.7).query)
    assert not len(hashes.find_pairs(flat, flat, 0.7).query)
    assert (hashes.contrast(flat) < hashes.BLANK).all()


def test_nothing_in_nothing_out(originals: list[Image.Image]) -> None:
    none = np.empty((0, SIDE, SIDE, 3), np.uint8)
    assert not len(hashes.find_pairs(none, None, 0.9).query)
    assert not len(hashes.find_pairs(none, thumbs(originals[:2]), 0.9).query)
    assert not len(hashes.find_pairs(thumbs(originals[:2]), none, 0.9).query)
    assert not len(hashes.find_pairs(thumbs(originals[:1]), None, 0.9).query)


def test_cosines_are_the_integrals() -> None:
    """Against a fine numerical integration of cos(pi k u) over the window."""
    matrix = hashes.cosines(8, 0.15, 0.6, 5)
    points = (np.arange(80_000) + 0.5) / 80_000
    inside = (points >= 0.15) & (points < 0.75)
    for k in range(5):
        wave = np.where(inside, np.cos(np.pi * k * (points - 0.15) / 0.6), 0) * (
            np.sqrt(2) if k else 1
        )
        wanted = wave.reshape(8, -1).mean(axis=1) / 8 / 0.6
        np.testing.assert_allclose(matrix[k], wanted, atol=1e-4)


def test_mirror_signs_are_the_mirror(originals: list[Image.Image]) -> None:
    gray = hashes.luminance(thumbs(originals[:5])).astype(np.float64)
    window = hashes.Window(0.1, 0.1, 0.8)
    plain = hashes.describe(gray, window, 12) * hashes.mirror_signs(12)
    np.testing.assert_allclose(plain, hashes.describe(gray[:, :, ::-1], window, 12), atol=1e-9)


def test_a_pair_within_the_pool_has_no_direction() -> None:
    """A framed copy contains the picture, not the other way round; the order of rows must not matter."""
    whole = np.stack([np.asarray(picture) for picture in natural(12, 5)])
    framed = np.full_like(whole, 255)
    for one, picture in zip(framed, whole, strict=True):
        one[8:56, 8:56] = np.asarray(Image.fromarray(picture).resize((48, 48)))
    for pool in (np.concatenate([whole, framed]), np.concatenate([framed, whole])):
        found = hashes.find_pairs(pool, None, 0.8)
        pairs = set(zip(found.query.tolist(), found.reference.tolist(), strict=True))
        assert {(i, i + 12) for i in range(12)} <= pairs
