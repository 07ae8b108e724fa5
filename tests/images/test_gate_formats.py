"""The image gate: GIF, BMP, TIFF and AVIF behind the same promises as the others."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.images.test_gate import CAP, judged, off_when_upright, picture, png_header, save, status
from webdistill.images.gate import GATE_STATUSES, Stored, decode, open_image, read_header

KINDS = ["GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else [])]
VARIANTS = [
    ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}), ("TIFF", {"compression": "tiff_deflate", "big_tiff": True}),
    ("AVIF", {"quality": 90}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
]  # fmt: skip
VARIANTS = [one for one in VARIANTS if one[0] in KINDS]


@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_pixels_are_those_of_the_decoder(kind: str, options: dict[str, object]) -> None:
    data = save(picture(), kind, **options)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(reference.convert("RGB"))
    stored = open_image(data, CAP, 64)
    assert np.array_equal(np.asarray(decode(stored.image)), expected)
    assert read_header(data) == (kind, 40, 30, True)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_modes(kind: str, mode: str) -> None:
    image = picture().convert(mode)
    found = np.asarray(decode(open_image(save(image, kind), CAP, 64).image)).astype(int)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found - expected).mean() < (8 if kind == "GIF" else 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cap_is_read_before_any_decoder(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoder(*_: object, **__: object) -> None:
        raise AssertionError("Pillow was called")

    data = save(picture(200, 100), kind)
    monkeypatch.setattr(Image, "open", no_decoder)
    assert status(data, max_pixels=19_999) == "too_many_pixels"


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], body: bytes) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", *frame, 0) + body


def tiff(*entries: tuple[int, int], order: str = "<") -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    tags = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    return head + struct.pack(order + "H", len(entries)) + tags + bytes(60)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack(
        "<IIIIiiHHIIIIII", 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )


@pytest.mark.parametrize(
    "data",
    [
        gif((60_000, 60_000), (0, 0, 1, 1), b"\2\1\0\0"),
        gif((1, 1), (60_000, 60_000, 60_000, 60_000), b"\2\1\0\0"),
        gif((1, 1), (0, 0, 60_000, 60_000), b"\2\1\0\0"),
        bmp(60_000, 60_000),
        bmp(60_000, -60_000),
        bmp(60_000, -(2**31)),
        tiff((256, 60_000), (257, 60_000)),
        tiff((256, 60_000), (257, 60_000), order=">"),
        tiff((256, 1), (257, 1), (256, 60_000), (257, 60_000)),
        tiff((256, 9), (257, 9), (322, 60_000), (323, 60_000)),
        tiff((256, 2**32 - 1), (257, 2**32 - 1)),
    ],
)
def test_what_announces_too_much_is_not_decoded(data: bytes) -> None:
    assert status(data) == "too_many_pixels"


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
def test_the_largest_size_of_an_avif_counts() -> None:
    data = save(picture(), "AVIF")
    at = data.index(b"ispe") + 8
    huge = data[:at] + struct.pack(">II", 60_000, 60_000) + data[at + 8 :]
    assert status(huge) == "too_many_pixels"
    for image in (picture(200, 100), picture(200, 100).convert("RGBA")):
        data = save(image, "AVIF")
        assert status(data, max_pixels=19_999) == "too_many_pixels"
        while (
            at := data.find(b"ispe") + 8
        ) > 8:  # the container lies, the coded picture is the same
            data = data[: at - 4] + b"\0" * 4 + struct.pack(">II", 4, 3) + data[at + 8 :]
            data = data.replace(b"ispe", b"ISPE", 1)
        data = data.replace(b"ISPE", b"ispe")
        assert read_header(data)[1:3] == (200, 100)
        assert status(data, max_pixels=19_999) == "too_many_pixels"


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
def test_a_moving_avif_is_not_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = save(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert status(data) == "unsupported_format"


@pytest.mark.skipif("AVIF" not in KINDS, reason="this Pillow has no AVIF")
@pytest.mark.parametrize("speed", [0, 6, 10])
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (640, 480)])
def test_sizes_of_any_avif(size: tuple[int, int], speed: int) -> None:
    if speed == 0 and size[0] > 100:
        pytest.skip("slow")
    for mode in ("RGB", "RGBA", "L"):
        for options in (
            {},
            {"tile_rows": 1, "tile_cols": 1},
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
        ):
            data = save(picture(*size).convert(mode), "AVIF", speed=speed, **options)
            assert read_header(data) == ("AVIF", *size, True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_refused(kind: str) -> None:
    data = save(picture(), kind)
    last = len(data) - (1 if kind == "GIF" else 0)  # after the first frame comes a mark of the end
    found = {end: status(data[:end]) for end in {*range(0, last, 7), *range(last - 12, last)}}
    allowed = {"truncated", "corrupt", "not_an_image", "unsupported_format"}
    assert set(found.values()) <= allowed
    if kind != "TIFF":  # whose directory may stand at the end
        assert all(found[end] == "truncated" for end in found if end > len(data) // 2)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_give_a_picture_or_a_status(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    originals = [
        save(picture(24, 20), kind, **options) for name, options in VARIANTS if name == kind
    ]
    originals += [save(picture(24, 20).convert("P"), kind)] if kind in ("GIF", "BMP") else []
    for round_ in range(300 if kind == "AVIF" else 1500):
        data = bytearray(originals[round_ % len(originals)])
        for _ in range(dice.randint(1, 8)):
            where = dice.randrange(min(len(data), 400) if round_ % 2 else len(data))
            data[where] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(len(data)) :]
        verdict = judged(bytes(data))
        assert isinstance(verdict, Stored) or verdict.status in GATE_STATUSES


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in KINDS:
        if kind in ("BMP", "AVIF"):
            continue
        data = save(frames[0], kind, save_all=True, append_images=frames[1:])
        found = np.asarray(decode(open_image(data, CAP, 64).image)).astype(int)
        assert np.abs(found - (255, 0, 0)).max() < 12
        if kind == "GIF":
            assert isinstance(judged(data[:-40]), Stored), "what follows may be cut off"


def test_a_clear_colour_of_a_gif_lies_on_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0] + [0] * 765)
    data = save(palette, "GIF", transparency=0)
    assert np.asarray(decode(open_image(data, CAP, 64).image)).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("TIFF", "AVIF")])
def test_orientation_is_applied_once(orientation: int, kind: str) -> None:
    assert off_when_upright(orientation, kind) < 60


def test_floating_point_pixels_are_not_guessed_at() -> None:
    data = save(Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)), "TIFF")
    assert status(data) == "unsupported_format"


@pytest.mark.parametrize(
    "junk", [b"\0\1\2\3\4\5\6", b"\x20", b"\xff\0\xff\0", b"\0" * 70_000, b"JFIF\xff\0"]
)
def test_bytes_before_a_marker_of_a_jpeg_belong_to_nothing(junk: bytes) -> None:
    whole = save(picture(), "JPEG")
    expected = open_image(whole, CAP, 64)
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda"):
        at = whole.index(marker, 2)
        assert open_image(whole[:at] + junk + whole[at:], CAP, 64) == expected, marker


def test_the_issues_files_are_pictures() -> None:
    folder = Path(__file__).parents[3] / "shared" / "cases" / "web" / "files"
    if not folder.is_dir():
        pytest.skip("the files are not on this machine")
    for path in folder.iterdir():
        stored = open_image(path.read_bytes(), CAP, 64)
        assert (stored.width, stored.height) == (48, 32), path


def test_a_png_is_still_refused_by_its_header() -> None:
    assert status(png_header(60_000, 60_000)) == "too_many_pixels"
