"""What files announce of their first picture, read by a few lines of our own before any decoder allocates a canvas.

One file a format, each with `read(data)` -> (width, height, whether the file holds the picture's end). 0 x 0 where the
size is unreadable. None of them raises, whatever `data` holds; none takes long.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from webdistill.images.headers import avif, bmp, gif, jpeg, png, tiff, webp

Kind = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
READERS = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WEBP": webp.read,
    "GIF": gif.read,
    "BMP": bmp.read,
    "TIFF": tiff.read,
    "AVIF": avif.read,
}
OTHER_IMAGES = (b"BM", b"\0\0\1\0", b"\0\0\0\x0cjP  ", b"\xff\x0a", b"8BPS", b"<svg")


class Header(NamedTuple):
    """`whole`: whether the file goes on to the end of its first picture."""

    kind: Kind
    width: int
    height: int
    whole: bool


def read_header(data: bytes) -> Header | None:
    """The header of a format that is let in, or None."""
    kind = kind_of(data)
    return Header(kind, *READERS[kind](data)) if kind else None


def kind_of(data: bytes) -> Kind | None:
    """The format that the first bytes are of, among those that are let in."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == png.MAGIC:
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM" and data[14:18] in bmp.HEADERS:
        return "BMP"
    if data[:4] in tiff.MAGICS:
        return "TIFF"
    return "AVIF" if avif.is_avif(data) else None


def is_other_image(data: bytes) -> bool:
    """Whether the bytes begin like an image of a format that is not let in."""
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    described = start[:5] == b"<?xml" and b"<svg" in data[:4096]
    return start.startswith(OTHER_IMAGES) or data[4:8] == b"ftyp" or described
