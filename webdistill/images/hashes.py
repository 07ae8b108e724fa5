"""What makes two images the same picture: resized, mirrored, recompressed, brightened, slightly cropped or framed.

Descriptor of a window of an image: the low cosine (DCT) frequencies of its luminance, each multiplied by
frequency^0.75, which evens out the 1/f spectrum of natural pictures, then scaled to unit length. The mean is left
out, so brightness and contrast do not matter; a mirror image has the same numbers with some signs flipped.

`views` are the coarse descriptors (8 x 8 frequencies) by which webdistill.images.copies finds pairs worth a look;
`similarity` is the verdict on a pair: 12 x 12 frequencies over a grid of zooms and shifts. Only the inner 80 % of the
reference is compared, so two pictures in the same frame are not taken for one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.floating]
Bytes = NDArray[np.uint8]
Rows = NDArray[np.int64]

CENTRE = 0.8  # side of the compared part of the reference, of the image's side
ZOOMS = (0.64, 0.72, 0.8, 0.88, 0.96)  # sides of the query's window: +-25 % around CENTRE
SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the largest shift checked
MAX_SHIFT = 0.06  # of the image's side
COARSE, FINE = 8, 12  # frequencies a side
NO_CONTRAST = 1e-3  # length of a descriptor below which there is nothing to scale
BLANK = 1.5  # grey levels (standard deviation) below which an image has no picture in it
BLOCK = 2048  # images at a time


@dataclass(frozen=True)
class Window:
    """A square part of an image, in parts of its side."""

    left: float
    top: float
    side: float


def contrast(thumbnails: Bytes) -> Floats:
    """[N, S, S, 3] -> standard deviation of the luminance in grey levels [N]."""
    return np.asarray(luminance(thumbnails).std(axis=(1, 2)))


def entropy(thumbnails: Bytes) -> Floats:
    """[N, S, S, 3] -> entropy in bits of the histogram of the luminance, 0 to 8 [N]."""
    gray = np.rint(luminance(thumbnails)).astype(np.int64).reshape(len(thumbnails), -1)
    out = np.zeros(len(gray), np.float32)
    for row, pixels in enumerate(gray):
        share = np.bincount(pixels, minlength=256) / len(pixels)
        out[row] = -(share[share > 0] * np.log2(share[share > 0])).sum()
    return out


def luminance(thumbnails: Bytes) -> Floats:
    """[N, S, S, 3] uint8 -> [N, S, S] float32, 0 to 255 (ITU-R BT.601)."""
    parts = np.array([0.299, 0.587, 0.114], np.float32)
    blocks = [
        thumbnails[i : i + BLOCK].astype(np.float32) @ parts
        for i in range(0, len(thumbnails), BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(thumbnails.shape[:3], np.float32)


def describe(gray: Numbers, window: Window, frequencies: int) -> Numbers:
    """[N, S, S] -> unit descriptors [N, frequencies^2] of one window; zero for a window without contrast."""
    size = gray.shape[1]
    rows = cosines(size, window.top, window.side, frequencies).astype(gray.dtype)
    columns = cosines(size, window.left, window.side, frequencies).astype(gray.dtype)
    spectrum = rows @ (gray @ columns.T)
    flat = (spectrum * weights(frequencies).astype(gray.dtype)).reshape(len(gray), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norm > NO_CONTRAST, flat / np.where(norm > NO_CONTRAST, norm, 1), 0).astype(
        gray.dtype
    )


def weights(frequencies: int) -> Doubles:
    """[frequencies, frequencies]: frequency^0.75; 0 for the mean."""
    radius = np.hypot(*np.meshgrid(np.arange(frequencies), np.arange(frequencies)))
    return np.asarray(radius**0.75)


def cosines(size: int, start: float, side: float, frequencies: int) -> NDArray[np.float64]:
    """Matrix [frequencies, size]: pixels of a line -> cosine coefficients of the window [start, start + side].

    Each entry is the integral of the cosine over the pixel's share of the window, so windows need not end
    at pixel borders.
    """
    edges = np.clip((np.arange(size + 1) / size - start) / side, 0, 1)
    order = np.arange(1, frequencies)[:, None] * np.pi
    integral = np.sqrt(2) * np.sin(order * edges) / order
    return np.concatenate([np.diff(edges)[None], np.diff(integral, axis=1)])


def mirror_signs(frequencies: int) -> Floats:
    """[frequencies^2]: factors that turn a descriptor into that of the image mirrored left to right."""
    signs = np.where(np.arange(frequencies) % 2, -1.0, 1.0).astype(np.float32)
    return np.tile(signs, frequencies)


def centre(gray: Numbers, side: float, frequencies: int) -> Numbers:
    """Descriptors [N, frequencies^2] of the central window with this side."""
    return describe(gray, Window((1 - side) / 2, (1 - side) / 2, side), frequencies)


def views(gray: Floats, zooms: Sequence[float]) -> Iterator[Floats]:
    """Coarse descriptors [N, 64] of [N, S, S]: the centre at each zoom, as it is and mirrored."""
    signs = mirror_signs(COARSE)
    for zoom in zooms:
        plain = centre(gray, zoom, COARSE).astype(np.float32)
        yield plain
        yield plain * signs


def pictures(thumbnails: Bytes) -> Floats:
    """Luminance [N, S, S], zero where an image is blank: what would be compared there is noise."""
    gray = luminance(thumbnails)
    gray[gray.std(axis=(1, 2)) < BLANK] = 0
    return gray


def similarity(queries: Numbers, references: Numbers, query: Rows, reference: Rows) -> Numbers:
    """Of each pair (row of `queries` [Q, S, S], row of `references` [R, S, S]), -1 to 1, in the type of `queries`.

    The largest inner product of the reference's centre with any window of the query or of its mirror image; 0 with
    an image that is zero. Depends on the two images only: products are made image by image, pair by pair.
    """
    left, left_row = np.unique(query, return_inverse=True)
    right, right_row = np.unique(reference, return_inverse=True)
    gray = queries[left]
    wanted = centre(references[right].astype(gray.dtype), CENTRE, FINE).reshape(-1, FINE, FINE)
    even, odd = (wanted[:, :, start::2].reshape(len(right), -1, 1) for start in (0, 1))
    best = np.full(len(query), -1, gray.dtype)
    for windows in _windows(gray.shape[1]):
        found, scale = _spectra(gray, windows)
        # Mirroring turns the signs of the odd columns: the better of both is even part + |odd part|.
        parts = [found[..., start::2].reshape(*found.shape[:2], -1) for start in (0, 1)]
        plain = np.matmul(parts[0][left_row], even[right_row])[..., 0]
        turned = np.matmul(parts[1][left_row], odd[right_row])[..., 0]
        np.maximum(
            best, ((plain + np.abs(turned)) * scale[left_row]).max(axis=1, initial=-1), out=best
        )
    return best


@cache
def _windows(size: int) -> tuple[Doubles, ...]:
    """For each zoom [shifts, FINE, size]: pixels of a line -> cosine coefficients at every shift."""
    out = []
    for zoom in ZOOMS:
        largest = min(MAX_SHIFT, (1 - zoom) / 2)
        starts = [(1 - zoom) / 2 + shift * largest for shift in SHIFTS]
        out.append(np.stack([cosines(size, start, zoom, FINE) for start in starts]))
    return tuple(out)


def _spectra(gray: Numbers, windows: Doubles) -> tuple[Numbers, Numbers]:
    """[N, S, S] -> weighted coefficients [N, shifts^2, FINE, FINE] and the factors to unit length [N, shifts^2]."""
    shifts, size = len(windows), gray.shape[1]
    lines = windows.reshape(-1, size).astype(gray.dtype)
    spectrum = (lines @ (gray @ lines.T)).reshape(-1, shifts, FINE, shifts, FINE)
    spectrum = spectrum.transpose(0, 1, 3, 2, 4) * weights(FINE).astype(gray.dtype)
    spectrum = spectrum.reshape(len(gray), shifts * shifts, FINE, FINE)
    norm = np.sqrt(np.einsum("nwij,nwij->nw", spectrum, spectrum))
    return spectrum, np.where(norm > NO_CONTRAST, 1 / np.where(norm > NO_CONTRAST, norm, 1), 0)
