"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

NO_BREAK = "\u00a0"  # between number and unit

_STATUSES = {
    "ok": "fetched",
    "duplicate": "same pixels as an earlier candidate",
    "opted_out": "owner opted out",
    "not_found": "no such file",
    "http_error": "HTTP error",
    "timeout": "took too long",
    "too_large": "more bytes than allowed",
    "bad_url": "no usable address",
    "not_public": "address is not public",
    "bad_redirect": "redirect not followed",
    "dns_error": "host name does not resolve",
    "connection_error": "connection failed",
    "changed": "not the file whose digest the list gives",
    "outside_folder": "path leaves the list's folder",
    "decoder_crash": "crashed the decoder",
    "failed": "defect of this program",
    "not_an_image": "no image at all",
    "unsupported_format": "format that is not read",
    "too_many_pixels": "more pixels than allowed",
    "extreme_shape": "extreme shape",
    "truncated": "file ends too early",
    "corrupt": "damaged file",
}
_REASONS = {
    "opt_out": "owner opted out",
    "takedown": "listed in takedown.txt",
    "leak": "near-duplicate of a test image",
    "licence": "licence not allowed",
    "unsafe": "looks unsafe to CLIP",
    "punsafe": "unsafe, as its list says",
    "nsfw": "not safe for work, as its list says",
    "pwatermark": "watermarked, as its list says",
    "low_aesthetic": "aesthetic score of its list too low",
    "low_similarity": "similarity of its list too low",
    "low_score": "CLIP score too low",
    "low_margin": "CLIP margin too small",
    "too_small": "too small",
    "elongated": "too long and thin",
    "blank": "next to no contrast",
    "low_entropy": "next to no detail",
    "duplicate": "near-duplicate of a kept image",
    "class_cap": "more than enough of its class",
}

POOL_FREE = ("dafl", "fast", "cmi", "deepinv")  # methods of distill that use no image of the pool


def status(name: str) -> str:
    """A status of the ledger in words."""
    return _STATUSES.get(name, name.replace("_", " "))


def reason(name: str) -> str:
    """A reason of the filter in words."""
    return _REASONS.get(name, name.replace("_", " "))


def percent(share: float, digits: int = 1) -> str:
    """0.8123 -> 81.2 %; nothing for NaN."""
    return "" if math.isnan(share) else f"{100 * share:.{digits}f}{NO_BREAK}%"


def ratio(part: int, whole: int, digits: int = 1) -> str:
    """part of whole as a percentage; a dash where there is nothing to divide by."""
    return percent(part / whole, digits) if whole else "–"


def count(number: float) -> str:
    """12345 -> 12,345."""
    return f"{int(number):,}"


def short(number: float) -> str:
    """78,042 -> 78.0 k; 3,400,000 -> 3.4 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{NO_BREAK}{letter}"
    return f"{number:.0f}"


def known(shown: Callable[[float], str], figures: Mapping[str, float], name: str) -> str:
    """The figure of that name, or nothing where `evaluate` could not know it."""
    return shown(figures[name]) if name in figures else ""


def figure(value: float) -> str:
    """A threshold or the value that decided: enough digits to tell neighbours apart."""
    if not math.isfinite(value):
        return "–"
    if value == int(value):
        return f"{int(value)}"
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.2f}"


def half_width(share: float, images: int) -> float:
    """Half width of the 95 % Wilson interval of an accuracy measured on `images` images."""
    z = 1.959964
    spread = math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return z * spread / (1 + z * z / images)
