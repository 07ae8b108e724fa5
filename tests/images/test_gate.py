"""The image gate: what comes in, what is refused and why, and that nothing hostile gets past it."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from webdistill.images.gate import (
    GATE_STATUSES,
    Rejected,
    Stored,
    StoredFormat,
    decode,
    encode,
    open_image,
    pixel_id,
    read_header,
)

ROOT = Path(__file__).parents[2]
CAP = 1_000_000


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, so that JPEG and WebP have something to do."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=-1)
    return Image.fromarray(np.clip(base + noise.normal(0, 8, base.shape), 0, 255).astype(np.uint8))


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def status(data: bytes, max_pixels: int = CAP, store_size: int = 64) -> str:
    with pytest.raises(Rejected) as caught:
        open_image(data, max_pixels, store_size)
    assert caught.value.status in GATE_STATUSES
    return caught.value.status


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 60}),
        ("JPEG", {"quality": 80}),
        ("JPEG", {"quality": 80, "progressive": True}),
        ("JPEG", {"quality": 50, "subsampling": 0, "optimize": True}),
    ],
)
def test_pixels_survive_exactly(kind: str, options: dict[str, object]) -> None:
    data = save(picture(), kind, **options)
    with Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(reference.convert("RGB"))
    stored = open_image(data, CAP, 64)
    assert np.array_equal(np.asarray(decode(stored.image)), expected)
    assert (stored.width, stored.height) == (40, 30)
    assert read_header(data)[:3] == (kind, 40, 30)


def test_id_is_the_hash_of_size_and_pixels() -> None:
    image = picture()
    by_hand = hashlib.sha256(
        (40).to_bytes(4, "little") + (30).to_bytes(4, "little") + np.asarray(image).tobytes()
    )
    assert pixel_id(image) == by_hand.hexdigest()[:32]
    ids = {
        open_image(save(image, kind, **o), CAP, 64).id
        for kind, o in (("PNG", {}), ("WEBP", {"lossless": True}))
    }
    assert ids == {pixel_id(image)}
    assert pixel_id(Image.new("RGB", (2, 8))) != pixel_id(Image.new("RGB", (8, 2)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_stored_jpeg_has_the_name_of_the_lossless_picture(kind: str) -> None:
    data = save(picture(100, 70), kind)
    stored = open_image(data, CAP, 64, "jpeg")
    assert stored.image[:3] == b"\xff\xd8\xff"
    assert stored.id == pixel_id(decode(open_image(data, CAP, 64, "webp").image))
    with Image.open(io.BytesIO(stored.image)) as again:
        assert (
            (again.format, again.size)
            == ("JPEG", (stored.width, stored.height))
            == ("JPEG", (91, 64))
        )
        assert [layer[1:3] for layer in again.layer] == [(1, 1)] * 3, "colours are not halved"
    lossless = open_image(data, CAP, 64)
    assert (lossless.width, lossless.height) == (91, 64)
    close = np.asarray(decode(stored.image)).astype(int) - np.asarray(decode(lossless.image))
    assert np.abs(close).mean() < 5, "the noise is hard to compress"
    assert open_image(data, CAP, 64, "jpeg") == stored, "same bytes, same picture"
    assert encode(decode(lossless.image), "jpeg") == stored.image


def test_the_gate_passes_its_own_output_unchanged() -> None:
    once = open_image(save(picture(100, 70), "JPEG"), CAP, 64)
    assert open_image(once.image, CAP, 64) == once


def test_no_metadata_survives() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret description"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret comment")
    for kind, options in (
        ("JPEG", {"exif": exif, "icc_profile": b"secret profile" * 20, "comment": b"secret"}),
        ("WEBP", {"exif": exif, "icc_profile": b"secret profile" * 20, "xmp": b"<x>secret</x>"}),
        ("PNG", {"exif": exif, "pnginfo": text, "icc_profile": b"secret profile" * 20}),
    ):
        data = save(picture(), kind, **options)
        stored = open_image(data, CAP, 64)
        assert b"secret" not in stored.image
        chunks = {stored.image[12:16]}
        assert chunks == {b"VP8L"}, "a bare lossless picture: no EXIF, ICCP or XMP chunk"
        with Image.open(io.BytesIO(stored.image)) as again:
            assert not again.getexif()
            assert "icc_profile" not in again.info
        lossy = open_image(data, CAP, 64, "jpeg").image
        assert b"secret" not in lossy
        with Image.open(io.BytesIO(lossy)) as again:
            assert [name for name, _ in again.applist] == ["APP0"], "JFIF only: no EXIF, no comment"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    assert off_when_upright(orientation, kind) < 40


def off_when_upright(orientation: int, kind: str) -> int:
    """How far colours are from those of the drawing, at most, in the middle of its four fields."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {  # how a camera held that way would have stored it
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(np.ascontiguousarray(undo(upright))), kind, exif=exif)
    found = np.asarray(decode(open_image(data, CAP, 64).image)).astype(int)
    assert found.shape == upright.shape
    middles = [(3, 6), (3, 26), (12, 6), (12, 26)]
    return int(max(np.abs(found[place] - upright[place]).max() for place in middles))


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(decode(open_image(save(clear, "PNG"), CAP, 64).image)).min() == 255
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert (
        abs(
            int(
                np.asarray(
                    decode(open_image(save(half, "WEBP", lossless=True), CAP, 64).image)
                ).mean()
            )
            - 127
        )
        <= 1
    )
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0] + [0] * 765)
    found = np.asarray(decode(open_image(save(palette, "PNG", transparency=0), CAP, 64).image))
    assert found.min() == 255


def test_odd_modes_become_rgb() -> None:
    gray16 = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    found = np.asarray(decode(open_image(save(gray16, "PNG"), CAP, 64).image))
    assert np.array_equal(found[..., 0], (np.arange(64) * 1000 >> 8).reshape(8, 8)), (
        "scaled, not clipped"
    )
    for mode in ("1", "L", "LA", "P"):
        assert open_image(save(picture().convert(mode), "PNG"), CAP, 64).width == 40
    assert open_image(save(picture().convert("CMYK"), "JPEG"), CAP, 64).width == 40
    assert open_image(save(picture().convert("L"), "JPEG"), CAP, 64).width == 40


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("WEBP", "PNG"):
        data = save(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        found = np.asarray(decode(open_image(data, CAP, 64).image))
        assert (found == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((40, 30), (40, 30)),
        ((64, 64), (64, 64)),
        ((128, 96), (85, 64)),
        ((65, 200), (64, 197)),
        ((900, 65), (886, 64)),
    ],
)
def test_shrinks_the_shorter_side_and_never_enlarges(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    for kind in ("PNG", "JPEG"):
        stored = open_image(save(picture(*size), kind), CAP, 64)
        assert (stored.width, stored.height) == expected


def test_fast_jpeg_shrinking_is_close_to_the_plain_way() -> None:
    data = save(picture(640, 480), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        plain = np.asarray(image.resize((85, 64), Image.Resampling.BICUBIC)).astype(float)
    found = np.asarray(decode(open_image(data, CAP, 64).image)).astype(float)
    assert np.abs(found - plain).mean() < 2.0


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_header(width: int, height: int) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size)


def test_pixel_cap_is_read_from_the_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoder(*_: object, **__: object) -> None:
        raise AssertionError("Pillow was called")

    big = {kind: save(picture(200, 100), kind) for kind in ("PNG", "JPEG", "WEBP")}
    lossless = save(picture(200, 100), "WEBP", lossless=True)
    extended = save(picture(200, 100).convert("RGBA"), "WEBP", exif=b"Exif\0\0MM\0*")
    monkeypatch.setattr(Image, "open", no_decoder)
    for data in (
        *big.values(),
        lossless,
        extended,
        png_header(60_000, 60_000),
        png_header(2**31 - 1, 2**31 - 1),
    ):
        assert status(data, max_pixels=19_999) == "too_many_pixels"


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * 30_001) for _ in range(10_000)) + packer.flush()
    bomb = png_header(10_000, 10_000) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND")
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb)
    command = [sys.executable, "-c", GROWTH, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found, grown = done.stdout.split()
    assert found == "too_many_pixels"
    assert int(grown) < 20, "decoded it takes 286 MiB or more"


GROWTH = """
import sys
from pathlib import Path
from PIL import Image
from webdistill.images.gate import Rejected, encode, open_image
def peak():  # of this program: ru_maxrss would start with that of the test that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
open_image(encode(Image.new("RGB", (9, 9))), 81, 64)
bomb, before = Path(sys.argv[1]).read_bytes(), peak()
try:
    open_image(bomb, 1_000_000, 64)
except Rejected as rejected:
    print(rejected.status, peak() - before)
"""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not_an_image"),
        (b"<html><body>404</body></html>", "not_an_image"),
        (b"\x89PNG", "not_an_image"),
        (b"GIF89a" + b"\0" * 40, "corrupt"),
        (b"BM" + b"\0" * 60, "unsupported_format"),
        (b"BMW drivers, a history of", "unsupported_format"),
        (b"II*\0" + b"\0" * 40, "corrupt"),
        (b"\xef\xbb\xbf  <svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"<?xml version='1.0'?><!-- x --><svg/>", "unsupported_format"),
        (b"\0\0\0\x20ftypavif" + b"\0" * 40, "corrupt"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "unsupported_format"),
        (b"\xff\xd8\xff\xe0", "corrupt"),
        (png_header(0, 5), "corrupt"),
        (png_header(5, 5), "truncated"),
        (b"RIFF\x10\0\0\0WEBPxxxx" + b"\0" * 20, "corrupt"),
    ],
)
def test_what_is_no_picture_of_ours(data: bytes, expected: str) -> None:
    assert status(data) == expected


def test_other_formats_pillow_knows_are_refused() -> None:
    for kind in ("ICO", "JPEG2000", "PPM", "TGA", "EPS", "PCX", "SGI", "DDS"):
        assert status(save(picture(), kind)) in ("unsupported_format", "not_an_image")


def test_endless_markers_cost_no_time() -> None:
    whole = save(picture(), "JPEG")
    assert isinstance(judged(whole[:2] + b"\xff" * 1000 + whole[2:]), Stored), "fill is allowed"
    started = time.process_time()
    for filler in (b"\xff", b"\xff\xd0", b"\xff\xfe\0\2"):
        data = whole[:2] + filler * (20_000_000 // len(filler)) + whole[2:]
        assert status(data) == "corrupt"
    assert time.process_time() - started < 1


def test_out_of_memory_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(MemoryError):
        open_image(save(picture(), "PNG"), CAP, 64)


def test_what_webp_cannot_hold() -> None:
    assert status(save(Image.new("RGB", (20_000, 4)), "PNG")) == "extreme_shape"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_truncation_is_refused(kind: str) -> None:
    data = save(picture(), kind)
    ends = {*range(0, len(data) - 1, 7), *range(len(data) - 12, len(data))}
    if kind == "PNG":
        ends -= set(range(len(data) - 4, len(data)))  # the checksum of the empty last chunk
    allowed = {"truncated", "corrupt", "not_an_image"}
    found = {end: status(data[:end]) for end in sorted(ends)}
    assert set(found.values()) <= allowed
    assert all(found[end] == "truncated" for end in found if end > len(data) // 2)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_give_a_picture_or_a_status(seed: int) -> None:
    dice = random.Random(seed)
    originals = [
        save(picture(24, 20), "PNG"),
        save(picture(24, 20), "JPEG", progressive=bool(seed % 2)),
    ]
    originals += [save(picture(24, 20), "WEBP"), save(picture(24, 20), "WEBP", lossless=True)]
    for round_ in range(2_500):  # 10,000 over the four seeds
        data = bytearray(originals[round_ % 4])
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(len(data)) :]
        verdict = judged(bytes(data), "jpeg" if round_ % 7 == 0 else "webp")
        assert isinstance(verdict, Stored) or verdict.status in GATE_STATUSES
        assert "0x" not in getattr(verdict, "detail", ""), (
            "an object's address would differ between runs"
        )


def judged(data: bytes, store_as: StoredFormat = "webp") -> Stored | Rejected:
    try:
        return open_image(data, CAP, 64, store_as)
    except Rejected as rejected:
        return rejected


def test_same_pixels_same_bytes() -> None:
    assert encode(picture()) == encode(picture())
