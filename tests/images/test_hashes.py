"""Descriptors of windows and the similarity of two pictures, against naive loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.images.planted import COPIES, SIDE, natural, thumbs
from webdistill.images import hashes


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return natural(60, seed=0)


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


def test_views_are_the_centre_at_each_zoom_and_its_mirror(originals: list[Image.Image]) -> None:
    gray = hashes.pictures(thumbs(originals[:4]))
    found = list(hashes.views(gray, (0.64, 0.8)))
    assert len(found) == 4
    for number, zoom in enumerate((0.64, 0.8)):
        window = hashes.Window((1 - zoom) / 2, (1 - zoom) / 2, zoom)
        for turned, picture in enumerate((gray, gray[:, :, ::-1])):
            wanted = hashes.describe(np.ascontiguousarray(picture), window, 8)
            np.testing.assert_allclose(found[2 * number + turned], wanted, atol=2e-5)


def naive(query: np.ndarray, reference: np.ndarray) -> float:
    """Window by window, of the picture and of its mirror image."""
    wanted = hashes.describe(reference[None], hashes.Window(0.1, 0.1, 0.8), 12)[0]
    best = -1.0
    for zoom in (0.64, 0.72, 0.8, 0.88, 0.96):
        largest = min(0.06, (1 - zoom) / 2)
        for across in (-1, -0.5, 0, 0.5, 1):
            for down in (-1, -0.5, 0, 0.5, 1):
                window = hashes.Window(
                    (1 - zoom) / 2 + across * largest, (1 - zoom) / 2 + down * largest, zoom
                )
                for picture in (query, query[:, ::-1]):
                    found = hashes.describe(np.ascontiguousarray(picture)[None], window, 12)[0]
                    best = max(best, float((found * wanted).sum()))
    return best


def test_similarity_is_the_best_of_all_windows(originals: list[Image.Image]) -> None:
    copies = [change(image) for change, image in zip(COPIES.values(), originals, strict=False)]
    references = hashes.luminance(thumbs(originals)).astype(np.float64)
    queries = hashes.luminance(thumbs(copies + originals[40:44])).astype(np.float64)
    query = np.array([*range(len(queries)), 2, 2])
    reference = np.array([*range(len(queries)), 7, 1])
    found = hashes.similarity(queries, references, query, reference)
    wanted = [naive(queries[q], references[r]) for q, r in zip(query, reference, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert (found[: len(copies)] > 0.88).all()
    assert (found[-2:] < 0.88).all()
    single = hashes.similarity(queries.astype(np.float32), references, query, reference)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted, atol=1e-5)


def test_similarity_of_a_pair_depends_on_no_other_pair(originals: list[Image.Image]) -> None:
    gray = hashes.luminance(thumbs(originals)).astype(np.float64)
    query, reference = np.arange(30), np.arange(30, 60)
    whole = hashes.similarity(gray, gray, query, reference)
    alone = [
        hashes.similarity(gray, gray, query[i : i + 1], reference[i : i + 1])[0] for i in range(30)
    ]
    assert whole.tolist() == alone


def test_blank_pictures_are_like_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((6, SIDE, SIDE, 3), 200, np.uint8)
    flat[3:] = rng.integers(199, 202, flat[3:].shape)
    assert (hashes.contrast(flat) < hashes.BLANK).all()
    gray = hashes.pictures(flat)
    assert not gray.any()
    rows = np.arange(6)
    assert hashes.similarity(gray, gray, rows, rows).tolist() == [0] * 6


def test_entropy_of_known_histograms() -> None:
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    pixels[1, :8] = 255  # two levels, half each: 1 bit
    pixels[2] = np.arange(256).reshape(16, 16, 1)  # each level once: 8 bits
    pixels[3, :4] = 90  # a quarter: 2 - 0.75 log2 3 bits
    wanted = [0, 1, 8, 2 - 0.75 * np.log2(3)]
    np.testing.assert_allclose(hashes.entropy(pixels), wanted, atol=1e-6)
