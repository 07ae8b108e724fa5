"""The image gate: bytes from anywhere -> one canonical picture without metadata, or one reason why not.

    magic bytes and header -> pixel cap -> decode the first frame -> upright sRGB over white -> shrink -> encode

Stored is lossless WebP, or JPEG; the id names the pixels that were encoded, so that it is the same for both.

The size is read from the header by our own few lines, before any decoder allocates a canvas. The original bytes,
EXIF, GPS, XMP and colour profiles (applied first) end here. Decoders may crash or hang on hostile files, so callers
that take files from strangers run `open_image` through `webdistill.images.workers`.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import AvifImagePlugin, Image, features

from webdistill.images.colours import to_rgb
from webdistill.images.headers import Header, Kind, is_other_image, png
from webdistill.images.headers import read_header as announced
from webdistill.images.stored import WEBP_MAX_SIDE, StoredFormat, decode, encode, pixel_id

__all__ = [
    "GATE_STATUSES", "GATE_VERSION", "GateStatus", "Rejected", "Stored", "StoredFormat", "decode", "encode",
    "open_image", "pixel_id", "read_header",
]  # fmt: skip

GateStatus = Literal[
    "not_an_image",  # no image format known here
    "unsupported_format",  # an image, but none of JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF
    "too_many_pixels",  # the header announces more than the cap
    "extreme_shape",  # a side above 16,383 px is left after shrinking
    "truncated",  # the file ends before the picture does
    "corrupt",  # the decoder refused it
]
GATE_STATUSES: tuple[GateStatus, ...] = get_args(GateStatus)

# Part of every key under which results of the gate are kept: raise it when the same bytes give another result.
GATE_VERSION = 4

# A JPEG is decoded at 1/2, 1/4 or 1/8, which is several times faster and averages its pixels in squares (mean squared
# difference to that 0.5, on 300 images at 256 px; bicubic resizing differs from it by 4). Below this many times
# store_size twice the size is decoded, and bicubic resizing does the last step.
AVERAGED = 4

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what turns the picture upright
ORIENTATION = 0x0112
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # processes are many enough


class Rejected(Exception):  # noqa: N818  (an answer, not a defect)
    """The gate's no: `status` from the closed enum, `detail` for people (never anything from the file itself)."""

    def __init__(self, status: GateStatus, detail: str) -> None:
        super().__init__(status, detail)
        self.status: GateStatus = status
        self.detail = detail


@dataclass(frozen=True)
class Stored:
    """A picture as the pool holds it: WebP or JPEG of `width` x `height` RGB pixels, named by its pixels."""

    id: str
    image: bytes
    width: int
    height: int


def open_image(
    data: bytes, max_pixels: int, store_size: int, store_as: StoredFormat = "webp"
) -> Stored:
    """Let one file in. Raises Rejected, and MemoryError, whatever `data` holds.

    `max_pixels`: cap on width x height in the header. `store_size`: the shorter side is shrunk to at most this
    many px, never enlarged.
    """
    kind, width, height, whole = read_header(data)
    if width < 1 or height < 1:
        raise Rejected("corrupt", f"{kind} header says {width} x {height} px")
    if width * height > max_pixels:
        raise Rejected(
            "too_many_pixels", f"{kind} header says {width} x {height} px, the cap is {max_pixels}"
        )
    if not whole:  # decoders forgive a missing tail, in part or in whole
        raise Rejected("truncated", f"{kind} ends before the picture does")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            image = _decode(data, kind, max_pixels, store_size)
    except (Rejected, MemoryError):
        raise
    except (
        Exception
    ) as error:  # Pillow raises a dozen types on broken files, SyntaxError among them
        short = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise Rejected(
            "truncated" if short else "corrupt", f"{kind}: {type(error).__name__}"
        ) from None
    if max(image.size) > WEBP_MAX_SIDE:
        raise Rejected("extreme_shape", f"{image.width} x {image.height} px after shrinking")
    return Stored(pixel_id(image), encode(image, store_as), image.width, image.height)


def read_header(data: bytes) -> Header:
    """What the header announces; 0 x 0 where that is unreadable. Raises Rejected for other formats."""
    header = announced(data)
    if header is not None and (header.kind != "AVIF" or features.check("avif")):
        return header
    if is_other_image(data):
        raise Rejected("unsupported_format", "an image of a format that is not read here")
    raise Rejected(
        "not_an_image", "no bytes" if not data else "no image format starts with these bytes"
    )


def _decode(data: bytes, kind: Kind, max_pixels: int, store_size: int) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        if (
            image.width * image.height > max_pixels
        ):  # the decoder's reading of the header, should it differ
            raise Rejected("too_many_pixels", f"{kind} says {image.width} x {image.height} px")
        target = _shrunk(image.size, store_size)
        if kind == "JPEG" and target != image.size:
            spare = 1 if min(image.size) >= AVERAGED * store_size else 2
            image.draft(None, (spare * target[0], spare * target[1]))
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        if image.mode == "F":
            raise Rejected("unsupported_format", f"{kind} with floating-point numbers for pixels")
        upright = to_rgb(image, png.depth(data) if kind == "PNG" else 8)
    if upright.size != target:
        upright = upright.resize(target, Image.Resampling.BICUBIC)
    return upright.transpose(turn) if turn is not None else upright


def _shrunk(size: tuple[int, int], store_size: int) -> tuple[int, int]:
    short = min(size)
    if short <= store_size:
        return size
    width, height = (max(store_size, (side * store_size + short // 2) // short) for side in size)
    return width, height


def _orientation(image: Image.Image) -> int:
    if image.format == "JPEG" and "exif" not in image.info:
        return 1  # at once
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # broken EXIF is no reason to lose the picture
        return 1
