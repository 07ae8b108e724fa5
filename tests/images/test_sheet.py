"""A contact sheet shows every image in its place."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from webdistill.images.sheet import contact_sheet


def test_every_image_is_in_its_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(images, columns=3, zoom=1))))
    assert sheet.shape == (11, 16, 3)
    for number in range(5):
        top, left = number // 3 * 5 + 1, number % 3 * 5 + 1
        assert (sheet[top : top + 4, left : left + 4] == images[number]).all()
    assert (sheet[6:10, 11:15] == 255).all()


def test_no_image_gives_an_empty_sheet() -> None:
    assert contact_sheet(np.empty((0, 4, 4, 3), np.uint8), columns=3)[:4] == b"\x89PNG"
