"""Pictures with a natural (1/f) spectrum, and copies of them as the web makes them."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

SIDE = 32


def natural(count: int, seed: int, side: int = 64) -> list[Image.Image]:
    """Random pictures whose amplitude falls as 1/f, like that of photographs. Shared: change copies."""
    return list(_natural(count, seed, side))


@functools.cache
def _natural(count: int, seed: int, side: int) -> tuple[Image.Image, ...]:
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
    return tuple(out)


def thumbs(images: Sequence[Image.Image]) -> np.ndarray:
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
