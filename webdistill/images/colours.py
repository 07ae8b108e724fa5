"""The colours of a decoded picture as 8-bit sRGB over white: profiles applied, transparency on white, deep grey scaled.

Profiles are hostile input like all else: one that LittleCMS cannot use, or that is of other colours than the picture,
is ignored, and the numbers count as sRGB.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 << 20  # bytes; those of printing presses have some hundred thousand
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # mode -> colours that a profile must be of
SAME = 2  # levels; a profile that moves no colour further is sRGB under another name


def to_rgb(image: Image.Image, depth: int = 8) -> Image.Image:
    """`depth`: bits of a sample of a PNG, for its transparent level."""
    profile = image.info.get("icc_profile")
    seen = _opaque(image, depth)
    if image.mode.startswith("I"):  # 16-bit grey, where Pillow would clip
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    plain = (
        image
        if image.mode in SPACES
        else image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    )
    rgb = _in_srgb(plain, profile)
    if rgb is None:
        rgb = plain if plain.mode == "RGB" else plain.convert("RGB")
    if seen is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, (255, 255, 255)), seen)
    return rgb


def _opaque(image: Image.Image, depth: int) -> Image.Image | None:
    """How much of each pixel is to be seen, None where all is."""
    if not image.has_transparency_data:
        return None
    level = image.info.get("transparency")
    if image.mode.startswith("I"):
        clear = np.asarray(image) == level
        return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    if (
        image.mode == "L" and isinstance(level, int) and depth in (2, 4)
    ):  # Pillow scales pixels, not the level
        image.info["transparency"] = level * (255 // (2**depth - 1))
    if image.mode == "RGB" and isinstance(level, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in level)
    return image.convert("RGBA").getchannel("A")


def _in_srgb(image: Image.Image, profile: object) -> Image.Image | None:
    """The picture in sRGB, None where the profile says nothing, or nothing new."""
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE:
        return None
    transform = _transform(profile, image.mode)
    return None if transform is None else ImageCms.applyTransform(image, transform)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if found.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(found, srgb, mode, "RGB")
        return None if _changes_nothing(transform, mode) else transform
    except MemoryError:
        raise
    except Exception:  # a broken profile is no reason to lose the picture
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours all over the cube stay where they are, as with the many names of sRGB."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(grid) if mode == "RGB" else Image.fromarray(steps[None])
    before = np.asarray(probe.convert("RGB")).astype(int)
    after = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return int(np.abs(after - before).max()) <= SAME
