"""Contact sheets for people: many small images as one PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def contact_sheet(images: NDArray[np.uint8], columns: int, zoom: int = 2) -> bytes:
    """Images [N, S, S, 3] row by row on white, a pixel apart, each `zoom` times enlarged -> PNG bytes."""
    count, side = len(images), images.shape[1]
    rows = -(-count // columns)
    step = side + 1
    sheet = np.full((max(rows, 1) * step + 1, columns * step + 1, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * step + 1, (number % columns) * step + 1
        sheet[top : top + side, left : left + side] = image
    picture = Image.fromarray(sheet).resize(
        (sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
