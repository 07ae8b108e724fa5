"""What keyword search returns besides the thing itself: digits, rendered text, textures, blanks."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Resampling

from pipelines.quickstart_data.shifts import encode

JUNK = ("digit", "text", "keyword_text", "texture", "blank")
SHARES = (0.32, 0.2, 0.12, 0.24, 0.12)
PHRASES = (
    "404", "SALE", "-50%", "LOGIN", "no image", "ERROR", "ADVERT", "COOKIES?", "LOADING",
    "image not\navailable", "BUY NOW", "CLICK\nHERE", "coming\nsoon", "page 12", "VOTE", "1 / 24",
)  # fmt: skip


def _colour(rng: Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = rng.integers(low, high, 3)
    return int(red), int(green), int(blue)


def digit(pixels: NDArray[np.uint8], rng: Generator) -> Image.Image:
    """[28, 28] uint8 grey levels -> a picture of it: plain, inverted or coloured, 28-56 px."""
    image = Image.fromarray(pixels)
    style = int(rng.integers(3))
    if style == 2:
        image = ImageOps.colorize(image, _colour(rng, 0, 100), _colour(rng, 150, 256))
    elif style == 1:
        image = ImageOps.invert(image)
    side = int(rng.choice([28, 32, 40, 56]))
    return image.convert("RGB").resize((side, side), Resampling.BICUBIC)


def text(words: str, rng: Generator) -> Image.Image:
    """Words in Pillow's built-in font on a plain ground."""
    width, height = int(rng.integers(44, 73)), int(rng.integers(32, 65))
    bright = rng.random() < 0.6
    ground = _colour(rng, 190, 256) if bright else _colour(rng, 0, 80)
    ink = _colour(rng, 0, 90) if bright else _colour(rng, 180, 256)
    image = Image.new("RGB", (width, height), ground)
    longest = max(len(line) for line in words.split("\n"))
    font = ImageFont.load_default(float(np.clip(1.7 * width / longest, 8, height * 0.55)))
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, height / 2), words, ink, font, anchor="mm", align="center")
    if rng.random() < 0.4:
        draw.rectangle((1, 1, width - 2, height - 2), outline=ink)
    return image


def texture(rng: Generator) -> Image.Image:
    """Stripes, checks, dots, bricks or clouds in two colours, 28-56 px."""
    side = int(rng.integers(28, 57))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    period = float(rng.uniform(5, 16))
    phase = rng.uniform(0, period, 2)
    angle = float(rng.uniform(0, np.pi))
    match int(rng.integers(5)):
        case 0:
            along = x * np.cos(angle) + y * np.sin(angle) + phase[0]
            mask = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
        case 1:
            mask = ((x + phase[0]) // period + (y + phase[1]) // period) % 2
        case 2:
            u = (x + phase[0]) % period - period / 2
            v = (y + phase[1]) % period - period / 2
            mask = np.clip(period / 3 - np.hypot(u, v) + 0.5, 0, 1)
        case 3:
            row = (y + phase[1]) // (period / 2)
            joint = (x + phase[0] + row % 2 * period / 2) % period < 1.2
            mask = 1.0 - (joint | ((y + phase[1]) % (period / 2) < 1.2))
        case _:
            cells = int(rng.integers(4, 9))
            cloud = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
            mask = np.asarray(cloud.resize((side, side), Resampling.BICUBIC), np.float32) / 255
    first, second = np.array(_colour(rng), np.float32), np.array(_colour(rng), np.float32)
    values = first + np.asarray(mask, np.float32)[..., None] * (second - first)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def blank(rng: Generator) -> Image.Image:
    """One colour, or a faint slope from one colour to a neighbour; 28-64 px."""
    width, height = int(rng.integers(28, 65)), int(rng.integers(28, 65))
    start = np.array(_colour(rng, 20, 236), np.float32)
    end = start + rng.uniform(-18, 18, 3).astype(np.float32) * (rng.random() < 0.6)
    slope = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    values = np.broadcast_to(start + slope * (end - start), (height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def junk(name: str, digits: NDArray[np.uint8], keyword: str, rng: Generator) -> bytes:
    """One junk file of the named sort (see JUNK). `digits` is [N, 28, 28] uint8."""
    match name:
        case "digit":
            image = digit(digits[int(rng.integers(len(digits)))], rng)
        case "text":
            image = text(PHRASES[int(rng.integers(len(PHRASES)))], rng)
        case "keyword_text":  # the known weak spot of CLIP: it reads
            image = text(keyword if rng.random() < 0.6 else keyword.upper(), rng)
        case "texture":
            image = texture(rng)
        case "blank":
            image = blank(rng)
        case _:
            raise ValueError(f"unknown junk {name!r}, expected one of {', '.join(JUNK)}")
    return encode(image, "webp" if rng.random() < 0.85 else "jpeg", int(rng.integers(70, 88)))
