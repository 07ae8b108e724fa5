"""What the web does to a photograph: covariate shifts, near copies, and the files they are stored in.

Every function is pure: the same picture and the same generator state give the same result.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from PIL.Image import Resampling, Transpose

Shift = Callable[[Image.Image, Generator], Image.Image]

LANCZOS = Resampling.LANCZOS
STAMPS = ("SAMPLE", "stock", "(c) example", "PREVIEW", "demo.example", "PROOF")
MEMES = ("WHEN YOU SEE IT", "NOPE", "MONDAY", "SO MUCH YES", "10/10", "WHY NOT")
SMALLEST = 24  # shorter side, px; only rows of kind `tiny` are smaller


def encode(image: Image.Image, file_format: str, quality: int = 80) -> bytes:
    """RGB image -> file bytes. `file_format` is webp, webp_lossless, jpeg or png (palette of 64 colours)."""
    out = io.BytesIO()
    match file_format:
        case "webp":
            image.save(out, "WEBP", quality=quality, method=6)
        case "webp_lossless":
            image.save(out, "WEBP", lossless=True, quality=100, method=6)
        case "jpeg":
            image.save(out, "JPEG", quality=quality, optimize=True)
        case "png":
            image.quantize(64, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        case _:
            raise ValueError(f"unknown format {file_format!r}")
    return out.getvalue()


def encode_sideways(image: Image.Image, quality: int) -> bytes:
    """JPEG whose pixels lie on their side and whose EXIF orientation says how to turn them back."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.transpose(Transpose.ROTATE_90).save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


def encode_photo(image: Image.Image, rng: Generator) -> bytes:
    """The format mix of the pool: mostly WebP, some JPEG (a few turned by EXIF), some palette PNG."""
    quality = int(rng.integers(80, 92) if max(image.size) <= 36 else rng.integers(68, 82))
    draw = rng.random()
    if draw < 0.80:
        return encode(image, "webp", quality)
    if draw < 0.965:
        return encode(image, "jpeg", min(quality, 85))
    if draw < 0.98:
        return encode_sideways(image, min(quality, 85))
    return encode(image, "png")


def decode(data: bytes) -> Image.Image:
    """File bytes -> upright RGB image. Raises what Pillow raises for a broken file."""
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def web_size(image: Image.Image, rng: Generator) -> Image.Image:
    """Half stay at their native size; most others get 28-64 px, a few 80-112 px."""
    draw = rng.random()
    if draw < 0.55:
        return image
    side = int(rng.integers(7, 17) * 4) if draw < 0.985 else int(rng.integers(80, 113))
    return image.resize((side, side), LANCZOS)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _array(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def _image(values: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


def jpeg_strong(image: Image.Image, rng: Generator) -> Image.Image:
    return decode(encode(image, "jpeg", int(rng.integers(8, 24))))


def grayscale(image: Image.Image, _rng: Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def sepia(image: Image.Image, _rng: Generator) -> Image.Image:
    gray = _array(image.convert("L"))[..., None]
    return _image(gray * np.array([1.05, 0.92, 0.7], np.float32) + np.array([12, 6, 0], np.float32))


def colour_cast(image: Image.Image, rng: Generator) -> Image.Image:
    gain = rng.uniform(0.55, 1.3, 3).astype(np.float32)
    return _image(_array(image) * gain)


def border(image: Image.Image, rng: Generator) -> Image.Image:
    """A frame of 8-22 % of the side: white, black or coloured."""
    tone = int(rng.integers(3))
    rest = (int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256)))
    colour = ((255, 255, 255), (0, 0, 0), rest)[tone]
    return ImageOps.expand(image, max(2, int(image.width * rng.uniform(0.08, 0.22))), colour)


def letterbox(image: Image.Image, rng: Generator) -> Image.Image:
    """The picture in the middle of a wider or taller black or white canvas."""
    long = int(image.width * rng.uniform(1.25, 1.7))
    size = (long, image.height) if rng.random() < 0.6 else (image.width, long)
    return ImageOps.pad(image, size, color="black" if rng.random() < 0.6 else "white")


def watermark(image: Image.Image, rng: Generator) -> Image.Image:
    """Half-transparent text across the middle, on a picture of at least 48 px."""
    side = int(rng.integers(48, 65))
    base = image.resize((side, side), LANCZOS).convert("RGBA")
    layer = Image.new("RGBA", base.size, (0, 0, 0, 0))
    text = STAMPS[int(rng.integers(len(STAMPS)))]
    middle = (side / 2, side * rng.uniform(0.3, 0.75))
    shade = (255, 255, 255) if rng.random() < 0.8 else (0, 0, 0)
    ink = (*shade, int(rng.integers(110, 190)))
    ImageDraw.Draw(layer).text(middle, text, ink, _font(rng.uniform(10, 14)), anchor="mm")
    layer = layer.rotate(float(rng.uniform(-35, 35)), Resampling.BICUBIC)
    return Image.alpha_composite(base, layer).convert("RGB")


def meme(image: Image.Image, rng: Generator) -> Image.Image:
    """A white band with a slogan above or below the picture."""
    side, band = 56, 14
    canvas = Image.new("RGB", (side, side + band), "white")
    top = rng.random() < 0.5
    canvas.paste(image.resize((side, side), LANCZOS), (0, band if top else 0))
    text = MEMES[int(rng.integers(len(MEMES)))]
    place = (side / 2, band / 2 if top else side + band / 2)
    ImageDraw.Draw(canvas).text(place, text, "black", _font(min(10, 90 / len(text))), anchor="mm")
    return canvas


def drawing(image: Image.Image, rng: Generator) -> Image.Image:
    """Few flat colours and dark outlines, like a poster or a comic."""
    large = image.resize((64, 64), Resampling.BICUBIC).filter(ImageFilter.MedianFilter(5))
    flat = large.quantize(int(rng.integers(5, 10)), dither=Image.Dither.NONE).convert("RGB")
    edges = _array(large.convert("L").filter(ImageFilter.FIND_EDGES))
    edges[:2], edges[-2:], edges[:, :2], edges[:, -2:] = 0, 0, 0, 0
    ink = np.clip((edges - 36) / 50, 0, 1)[..., None]
    return _image(_array(flat) * (1 - ink)).resize((48, 48), LANCZOS)


def odd_crop(image: Image.Image, rng: Generator) -> Image.Image:
    """A window of 62-90 % of each side, somewhere in the picture."""
    width, height = (int(side * rng.uniform(0.62, 0.9)) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def stretch(image: Image.Image, rng: Generator) -> Image.Image:
    factor = rng.uniform(1.35, 1.9)
    width, height = image.size
    if rng.random() < 0.6:
        return image.resize((int(width * factor), height), LANCZOS)
    return image.resize((width, int(height * factor)), LANCZOS)


def dark(image: Image.Image, rng: Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.3, 0.5)))


def washed_out(image: Image.Image, rng: Generator) -> Image.Image:
    strength = float(rng.uniform(0.3, 0.5))
    return _image(_array(image) * strength + 255 * (1 - strength) * np.float32(0.9))


def blur(image: Image.Image, rng: Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.02, 0.035)) * image.width))


def rotate(image: Image.Image, rng: Generator) -> Image.Image:
    """A photographed print that lies askew: 8-25 degrees, on a plain ground."""
    angle = float(rng.uniform(8, 25)) * (1 if rng.random() < 0.5 else -1)
    ground = (235, 232, 225) if rng.random() < 0.7 else (20, 20, 24)
    return image.rotate(angle, Resampling.BICUBIC, fillcolor=ground)


SHIFTS: dict[str, Shift] = {
    function.__name__: function
    for function in (
        jpeg_strong,
        grayscale,
        sepia,
        colour_cast,
        border,
        letterbox,
        watermark,
        meme,
        drawing,
        odd_crop,
        stretch,
        dark,
        washed_out,
        blur,
        rotate,
    )
}


def shifted(image: Image.Image, name: str, rng: Generator) -> bytes:
    """The picture after one named shift, as file bytes; its shorter side is at least SMALLEST px."""
    result = SHIFTS[name](web_size(image, rng), rng)
    short = min(result.size)
    if short < SMALLEST:
        scale = SMALLEST / short
        size = (round(result.width * scale), round(result.height * scale))
        result = result.resize(size, LANCZOS)
    return encode_photo(result, rng)


NEAR = (
    "resized",
    "flipped",
    "recompressed",
    "brightness",
    "flipped_resized",
    "resized_recompressed",
)


def near_copy(image: Image.Image, change: str, rng: Generator) -> bytes:
    """The same picture as another site would serve it. `change` is one of NEAR."""
    if "flipped" in change:
        image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    if "resized" in change:
        low = max(0.75, SMALLEST / min(image.size))
        factor = rng.uniform(low, 1) if rng.random() < 0.3 and low < 0.9 else rng.uniform(1.2, 1.7)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, LANCZOS)
    if change == "brightness":
        factor = rng.uniform(0.75, 0.9) if rng.random() < 0.5 else rng.uniform(1.1, 1.3)
        image = ImageEnhance.Brightness(image).enhance(float(factor))
    if "recompressed" in change:
        return encode(image, "jpeg", int(rng.integers(30, 60)))
    return encode(image, "webp", int(rng.integers(72, 86)))
