"""The image gate: bytes from anywhere -> one canonical picture without metadata, or one reason why not.

    magic bytes and header -> pixel cap -> decode the first frame -> upright RGB over white -> shrink -> encode

Stored is lossless WebP, or JPEG; the id names the pixels that were encoded, so that it is the same for both.

The size is read from the header by our own few lines, before any decoder allocates a canvas. The original bytes,
EXIF, GPS, XMP and colour profiles end here. Decoders may crash or hang on hostile files, so callers that take
files from strangers run `open_image` through `webdistill.images.workers`.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, WebPImagePlugin  # noqa: F401  (registers WebP before the first file comes)

GateStatus = Literal[
    "not_an_image",  # no image format known here
    "unsupported_format",  # an image, but none of JPEG, PNG, WebP
    "too_many_pixels",  # the header announces more than the cap
    "extreme_shape",  # a side above 16,383 px is left after shrinking
    "truncated",  # the file ends before the picture does
    "corrupt",  # the decoder refused it
]
GATE_STATUSES: tuple[GateStatus, ...] = get_args(GateStatus)
StoredFormat = Literal["webp", "jpeg"]

# Part of every key under which results of the gate are kept: raise it when the same bytes give another result.
GATE_VERSION = 3
# Measured on 10,000 CIFAR-10 images at 32 / 64 px: method 1 costs 0.2 / 0.6 ms and 1.76 / 4.5 kB an image,
# method 4 (Pillow's default) 1.0 / 3.8 ms for 0.4 to 1 % less, PNG 2.3 / 6.5 kB.
WEBP_METHOD = 1
WEBP_QUALITY = 20
WEBP_MAX_SIDE = 16383
# Measured on 1,000 Tiny-ImageNet images at 64 px: full colour resolution costs 3.0 kB an image and a mean squared
# error of 3.0, halved colours (Pillow's default) 2.6 kB and 4.1; lossless WebP 6.3 kB.
JPEG_QUALITY = 92
JPEG_SUBSAMPLING = 0

# A JPEG is decoded at 1/2, 1/4 or 1/8, which is several times faster and averages its pixels in squares (mean squared
# difference to that 0.5, on 300 images at 256 px; bicubic resizing differs from it by 4). Below this many times
# store_size twice the size is decoded, and bicubic resizing does the last step.
AVERAGED = 4

Kind = Literal["JPEG", "PNG", "WEBP"]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
OTHER_IMAGES = (
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\1\0",
    b"\0\0\0\x0cjP  ",
    b"\xff\x0a",
    b"8BPS",
    b"<svg",
)
# Start-of-frame markers: all of C0..CF but DHT (C4), JPG (C8) and DAC (CC).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_LONE = frozenset(range(0xD0, 0xD9)) | {0x01}
JPEG_MARKERS = (
    10_000  # before the first scan; more, or more fill, would keep Python busy for seconds
)
JPEG_FILL = re.compile(rb"\xff{1,65536}")
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
    kind, width, height, scan = read_header(data)
    if width < 1 or height < 1:
        raise Rejected("corrupt", f"{kind} header says {width} x {height} px")
    if width * height > max_pixels:
        raise Rejected(
            "too_many_pixels", f"{kind} header says {width} x {height} px, the cap is {max_pixels}"
        )
    _check_complete(data, kind, scan)
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


def read_header(data: bytes) -> tuple[Kind, int, int, int]:
    """(format, width, height, offset of a JPEG's first scan) as the header announces them. Raises Rejected.

    0 x 0 where it is unreadable; offset 0 where there is none.
    """
    if data[:8] == PNG_MAGIC:
        width, height = (
            struct.unpack_from(">II", data, 16)
            if data[12:16] == b"IHDR" and len(data) > 24
            else (0, 0)
        )
        return "PNG", width, height, 0
    if data[:3] == b"\xff\xd8\xff":
        return ("JPEG", *_jpeg_frame(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ("WEBP", *_webp_size(data), 0)
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    if (
        start.startswith(OTHER_IMAGES)
        or data[4:8] == b"ftyp"
        or (start[:5] == b"<?xml" and b"<svg" in data[:4096])
    ):
        raise Rejected("unsupported_format", "an image, but neither JPEG, PNG nor WebP")
    raise Rejected(
        "not_an_image", "no bytes" if not data else "no image format starts with these bytes"
    )


def pixel_id(image: Image.Image) -> str:
    """32 hex characters that name an RGB picture by its size and pixels."""
    pixels = hashlib.sha256(struct.pack("<II", *image.size))
    pixels.update(image.tobytes())
    return pixels.hexdigest()[:32]


def encode(image: Image.Image, store_as: StoredFormat = "webp") -> bytes:
    """Lossless WebP or JPEG of an RGB picture, without metadata; same pixels, same bytes (for one version of the
    library)."""
    out = io.BytesIO()
    if store_as == "jpeg":
        image.save(
            out,
            "JPEG",
            quality=JPEG_QUALITY,
            subsampling=JPEG_SUBSAMPLING,
            exif=b"",
            icc_profile=b"",
            comment=b"",  # else Pillow takes over the original's
        )
    else:
        image.save(
            out,
            "WEBP",
            lossless=True,
            method=WEBP_METHOD,
            quality=WEBP_QUALITY,
            exif=b"",
            icc_profile=b"",
        )
    return out.getvalue()


def decode(data: bytes) -> Image.Image:
    """The RGB picture behind bytes that `encode` made, or another trusted WebP, PNG or JPEG file."""
    with Image.open(io.BytesIO(data), formats=("WEBP", "PNG", "JPEG")) as image:
        return image.convert("RGB")


def _jpeg_frame(data: bytes) -> tuple[int, int, int]:
    """(width, height, offset of the first scan); zeros for what was not found."""
    width = height = 0
    at = 2
    for _ in range(JPEG_MARKERS):
        fill = JPEG_FILL.match(data, at)
        at = fill.end() - 1 if fill else len(data)
        if at + 4 > len(data) or data[at + 1] == 0xFF:
            break
        marker = data[at + 1]
        if marker in JPEG_LONE:  # no segment follows
            at += 2
            continue
        if marker == 0xDA:
            return width, height, at
        if marker in JPEG_FRAMES and at + 9 <= len(data):
            high, wide = struct.unpack_from(">HH", data, at + 5)
            width, height = (
                max(width, wide),
                max(height, high),
            )  # the largest, should there be several
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return width, height, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas size from the first chunk: lossy, lossless or extended."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _check_complete(data: bytes, kind: Kind, scan: int) -> None:
    """Decoders forgive a missing tail, in part or in whole; a cut file is refused here for all three formats."""
    if kind == "WEBP":
        complete = len(data) >= int.from_bytes(data[4:8], "little") + 8
    elif kind == "JPEG":
        # Byte stuffing keeps FF D9 out of scan data, so its first appearance is the end of the image.
        complete = scan > 0 and data.find(b"\xff\xd9", scan) >= 0
    else:
        complete = _png_ends(data)
    if not complete:
        raise Rejected("truncated", f"{kind} ends before the picture does")


def _png_ends(data: bytes) -> bool:
    at = len(PNG_MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + length
    return False


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
        upright = _rgb(image)
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


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparency over white; 16-bit gray scaled, where Pillow would clip."""
    if image.mode.startswith("I"):
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
