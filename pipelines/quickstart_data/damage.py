"""Files that are no usable picture: broken, cut off, claiming to be huge, or something else altogether."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable

from numpy.random import Generator
from PIL import Image

from pipelines.quickstart_data.shifts import decode, encode

BROKEN = ("random_bytes", "zeroed_head", "garbled_png", "garbled_body", "html_after_magic")
OVERSIZED = ("png_header", "jpeg_header", "webp_header", "png_bomb")
NOT_IMAGE = ("html", "svg", "gif", "text", "json", "pdf", "empty")
FORMATS = ("webp", "jpeg", "png")
MAGIC = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"

HTML = """<!DOCTYPE html>
<html><head><title>{code} {reason}</title></head>
<body><h1>{reason}</h1><p>The picture of a {word} that you asked for is not here.</p>
<hr><address>images.example</address></body></html>
"""
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">
<circle cx="{x}" cy="{y}" r="20" fill="#{colour:06x}"/><text x="8" y="60">{word}</text></svg>
"""
PDF = """%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [] /Count 0>> endobj
% {word} {x}
trailer <</Root 1 0 R>>
%%EOF
"""
REASONS = ((404, "Not Found"), (403, "Forbidden"), (410, "Gone"), (503, "Service Unavailable"))


def decodes(data: bytes) -> bool:
    """Whether Pillow makes a picture of these bytes."""
    try:
        decode(data)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return False
    return True


def _claims_much(data: bytes) -> bool:
    """Whether the header can be read and claims more than 10^6 pixels: that would be `oversized`, not broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as image:
                return image.width * image.height > 1_000_000
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return True
        except (OSError, SyntaxError, ValueError, struct.error):
            return False


def _until_unreadable(make: Callable[[], bytes]) -> bytes:
    """Decoders forgive a good deal of damage: damage afresh until this one does not."""
    for _ in range(200):
        data = make()
        if not _claims_much(data) and not decodes(data):
            return data
    raise RuntimeError("200 damaged files in a row could still be decoded")


def broken(image: Image.Image, name: str, rng: Generator) -> bytes:
    """A file of full length that cannot be decoded. `name` is one of BROKEN."""

    def make() -> bytes:
        if name == "random_bytes":
            return rng.bytes(int(rng.integers(60, 400)))
        if name == "html_after_magic":
            code, reason = REASONS[int(rng.integers(len(REASONS)))]
            return MAGIC + HTML.format(code=code, reason=reason, word=rng.integers(1000)).encode()
        kind = "png" if name == "garbled_png" else FORMATS[int(rng.integers(2))]
        data = bytearray(encode(image, kind, 70))
        if name == "zeroed_head":
            size = int(rng.integers(12, 40))
            return bytes(size) + bytes(data[size:])
        start = int(rng.integers(20, len(data) // 2))
        noise = rng.bytes(int(rng.integers(24, 120)))[: len(data) - start]
        data[start : start + len(noise)] = noise
        return bytes(data)

    return _until_unreadable(make)


def truncated(image: Image.Image, file_format: str, rng: Generator) -> bytes:
    """The first 15-85 % of a good file, as after a lost connection."""
    data = encode(image, file_format, 75)
    return _until_unreadable(lambda: data[: int(len(data) * rng.uniform(0.15, 0.85))])


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, bits: int, body: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def oversized(image: Image.Image, name: str, rng: Generator) -> bytes:
    """A few hundred bytes to a few ten thousand that claim, or really hold, at least 10^8 pixels."""
    width, height = (int(side) for side in rng.integers(20_000, 60_000, 2))
    match name:
        case "png_header":
            return _png(width, height, 8, zlib.compress(rng.bytes(40), 9))
        case "jpeg_header":
            data = encode(image, "jpeg", 60)
            at = data.index(b"\xff\xc0") + 5
            return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
        case "webp_header":  # 14 bits each for width - 1 and height - 1 after the VP8L signature
            data = encode(image.convert("L").convert("RGB"), "webp_lossless")
            at = data.index(b"VP8L") + 9
            bits = struct.unpack("<I", data[at : at + 4])[0] >> 28 << 28
            bits |= int(rng.integers(12_000, 16_384)) | int(rng.integers(12_000, 16_384)) << 14
            return data[:at] + struct.pack("<I", bits) + data[at + 4 :]
        case "png_bomb":  # 1 bit a pixel, all black, complete and valid
            side = int(rng.integers(1300, 1900)) * 8
            return _png(side, side, 1, zlib.compress(bytes(side * (side // 8 + 1)), 9))
    raise ValueError(f"unknown name {name!r}, expected one of {', '.join(OVERSIZED)}")


def not_image(image: Image.Image, name: str, word: str, rng: Generator) -> bytes:
    """What a server sends instead of a JPEG, PNG or WebP. `name` is one of NOT_IMAGE."""
    x, y = (int(v) for v in rng.integers(16, 48, 2))
    code, reason = REASONS[int(rng.integers(len(REASONS)))]
    match name:
        case "html":
            return HTML.format(code=code, reason=reason, word=word).encode()
        case "svg":
            return SVG.format(x=x, y=y, colour=int(rng.integers(1 << 24)), word=word).encode()
        case "gif":
            out = io.BytesIO()
            image.quantize(16, dither=Image.Dither.NONE).save(out, "GIF")
            return out.getvalue()
        case "text":
            return f"{word}: see attachment no. {rng.integers(10_000)}\n".encode()
        case "json":
            return f'{{"error": {code}, "message": "{reason}", "q": "{word} {x}"}}\n'.encode()
        case "pdf":
            return PDF.format(word=word, x=int(rng.integers(10_000))).encode()
        case "empty":
            return b""
    raise ValueError(f"unknown name {name!r}, expected one of {', '.join(NOT_IMAGE)}")


def sniff(data: bytes) -> str:
    """The usual ending of a file with these first bytes; jpg for what is no picture at all."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "jpg"
