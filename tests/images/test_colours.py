"""The image gate: colour profiles are applied before they are dropped, clear levels of any depth lie on white."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from tests.images.test_gate import CAP, picture, png_chunk, save
from webdistill.images.gate import decode, open_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TAGGED = ["JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


def swapped(profile: bytes = SRGB) -> bytes:
    """A profile whose red is sRGB's blue, and the other way round, and which is called sRGB."""
    table = bytearray(profile)
    (count,) = struct.unpack_from(">I", table, 128)
    entries = {bytes(table[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    for one, other in ((b"rXYZ", b"bXYZ"),):
        a, b = entries[one] + 4, entries[other] + 4
        table[a : a + 8], table[b : b + 8] = table[b : b + 8], table[a : a + 8]
    return bytes(table)


def darker() -> bytes:
    """A grey profile of gamma 3.5 instead of 2.2."""
    curve = struct.pack(">4sIIHH", b"curv", 0, 1, int(3.5 * 256), 0)
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    start = 128 + 4 + 24
    tags = struct.pack(">I4sII4sII", 2, b"kTRC", start, 14, b"wtpt", start + 16, 20)
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x10\0\0", b"mntrGRAYXYZ ", b"acsp"
    head[68:80] = struct.pack(">3I", 63190, 65536, 54061)
    data = bytes(head) + tags + curve + white
    return struct.pack(">I", len(data)) + data[4:]


def channels(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, green, red))


def opened(data: bytes) -> np.ndarray:
    return np.asarray(decode(open_image(data, CAP, 64).image)).astype(int)


@pytest.mark.parametrize("kind", TAGGED)
def test_a_profile_that_swaps_channels_gives_the_colours_of_the_drawing(kind: str) -> None:
    image = picture()
    options = (
        {"quality": 95}
        if kind in ("JPEG", "AVIF")
        else {"lossless": True}
        if kind == "WEBP"
        else {}
    )
    data = save(channels(image), kind, icc_profile=swapped(), **options)
    assert np.abs(opened(data) - np.asarray(image)).mean() < 6
    clear = channels(image).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    if kind in ("PNG", "WEBP", "TIFF"):
        found = opened(save(clear, kind, icc_profile=swapped(), **options))
        alpha = np.asarray(clear.getchannel("A")).astype(int)[..., None]
        expected = (np.asarray(image) * alpha + 255 * (255 - alpha)) / 255
        assert np.abs(found - expected).mean() < 3


def test_a_palette_has_the_colours_of_its_profile() -> None:
    image = picture().quantize(64)
    found = opened(save(image, "PNG", icc_profile=swapped()))
    assert np.abs(found - np.asarray(channels(image.convert("RGB")))).mean() < 3


@pytest.mark.parametrize("kind", TAGGED)
def test_srgb_changes_no_pixel_and_no_name(kind: str) -> None:
    plain, tagged = (save(picture(), kind, **extra) for extra in ({}, {"icc_profile": SRGB}))
    assert open_image(plain, CAP, 64).id == open_image(tagged, CAP, 64).id


def test_grey_has_a_profile_of_its_own() -> None:
    grey = picture().convert("L")
    plain = opened(save(grey, "PNG"))
    assert opened(save(grey, "PNG", icc_profile=darker())).mean() < plain.mean() - 10
    assert np.array_equal(opened(save(grey, "PNG", icc_profile=swapped())), plain), "of colours"
    coloured = opened(save(picture(), "PNG", icc_profile=darker()))
    assert np.array_equal(coloured, opened(save(picture(), "PNG"))), "a grey profile of colours"


def cmyk() -> bytes:
    """A profile whose four channels mix to grey by the black alone: A2B0 as a table of 2 x 2 x 2 x 2 in Lab."""
    grid = np.zeros((2, 2, 2, 2, 3), np.uint8)
    grid[..., 1:] = 128
    grid[..., 0, 0] = 255  # no black: white, whatever the other inks do
    lut = struct.pack(">4sIBBBB", b"mft1", 0, 4, 3, 2, 0) + struct.pack(
        ">9i", *(65536 * int(n in (0, 4, 8)) for n in range(9))
    )
    ramp = bytes(range(256))
    lut += ramp * 4 + grid.tobytes() + ramp * 3
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    start = 128 + 4 + 24
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", start, 20, b"A2B0", start + 20, len(lut))
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x10\0\0", b"prtrCMYKLab ", b"acsp"
    head[68:80] = struct.pack(">3I", 63190, 65536, 54061)
    data = bytes(head) + tags + white + lut
    return struct.pack(">I", len(data)) + data[4:]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_those_of_their_profile(kind: str) -> None:
    inks = Image.new("CMYK", (16, 16), (255, 0, 255, 0))
    assert np.abs(opened(save(inks, kind)) - (0, 255, 0)).max() < 8, "without one: green"
    assert opened(save(inks, kind, icc_profile=cmyk())).min() > 240, "with it: black alone counts"
    black = Image.new("CMYK", (16, 16), (0, 0, 0, 255))
    assert opened(save(black, kind, icc_profile=cmyk())).max() < 30


BROKEN = {
    "words": b"no profile at all" * 20, "cut": swapped()[:300], "head": swapped()[:128], "zeros": bytes(600),
    "of inks": cmyk(), "huge": swapped() + bytes(5 << 20),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_a_broken_profile_is_ignored(kind: str, name: str) -> None:
    plain = save(picture(), kind)
    data = save(picture(), kind, icc_profile=BROKEN[name])
    assert np.array_equal(opened(data), opened(plain))


@pytest.mark.parametrize("kind", TAGGED)
def test_no_profile_takes_the_gate_down(kind: str) -> None:
    dice = np.random.default_rng(0)
    for base in (swapped(), cmyk(), darker()):
        for _ in range(15):
            profile = bytearray(base)
            for at in dice.integers(0, len(profile), 20):
                profile[at] = dice.integers(256)
            data = save(picture(8, 8), kind, icc_profile=bytes(profile))
            assert open_image(data, CAP, 64).width == 8


def clear_level(depth: int, colours: int, levels: list[int], level: tuple[int, ...]) -> bytes:
    """A PNG of one row without alpha, one level of which is clear."""
    size = struct.pack(
        ">IIBBBBB", len(levels) // (3 if colours == 2 else 1), 1, depth, colours, 0, 0, 0
    )
    bits = "".join(f"{value:0{depth}b}" for value in levels)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    clear = struct.pack(f">{len(level)}H", *level)
    parts = [
        (b"IHDR", size),
        (b"tRNS", clear),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [0, 1])
def test_one_clear_level_of_grey_lies_on_white(depth: int, clear: int) -> None:
    most = 2**depth - 1
    levels = [0, 1, most, 0, 1, most, 0, 1]
    found = opened(clear_level(depth, 0, levels, (clear,)))[0, :, 0]
    shown = [255 if n == clear else round(n * 255 / most) for n in levels]
    assert np.abs(found - shown).max() <= 1


def test_one_clear_colour_lies_on_white() -> None:
    colours = [1, 2, 3, 9, 9, 9]
    found = opened(clear_level(8, 2, colours, (1, 2, 3)))[0]
    assert found.tolist() == [[255] * 3, [9] * 3]
    deep = [0x1234, 0x2345, 0x3456, 0x9999, 0x9999, 0x9999]
    found = opened(clear_level(16, 2, deep, (0x1234, 0x2345, 0x3456)))[0]
    assert found.tolist() == [[255] * 3, [0x99] * 3]


def test_a_profile_costs_its_picture_no_metadata() -> None:
    stored = open_image(save(picture(), "PNG", icc_profile=swapped()), CAP, 64, "jpeg")
    with Image.open(io.BytesIO(stored.image)) as again:
        assert "icc_profile" not in again.info
