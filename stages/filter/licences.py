"""One code per licence, whatever the spelling: CC BY-SA 4.0, by-sa, creativecommons.org/licenses/by-sa/4.0/ -> by-sa.

Versions and countries are left out. What is no Creative Commons licence gets its own words in lower case as a code.
A code says what the source has stated, not that it is true.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

UNSTATED = frozenset({"", "unknown", "none", "null", "nan", "n-a", "unspecified", "not-stated"})
PARTS = ("by", "nc", "nd", "sa")  # in the order of the codes' names
WORDS = {
    "attribution": "by",
    "noncommercial": "nc",
    "noderivs": "nd",
    "noderivatives": "nd",
    "sharealike": "sa",
}
FILLER = frozenset({"cc", "creative", "commons", "license", "licence", "universal", "the", "a"})
VERSION = re.compile(r"v?[1-4](?:\.[05])?")
PUBLIC_DOMAIN = re.compile(r"pdm|pd(?:-.+)?|public-?domain(?:-mark)?|no-known-copyright.*")
CC0 = re.compile(r"(?:cc-?0|cc-?zero|zero)(?:-public-domain-dedication)?|public-domain-dedication")
# Behind the name in full, in Creative Commons' own titles. No blanks before it: a run of them would take long.
SHORT = re.compile(r"\((cc[^()]*)\)", re.IGNORECASE)


@lru_cache(maxsize=65536)
def licence_code(text: str, url: str = "") -> str:
    """ "" when neither says anything. The text counts; the address only where the text states none."""
    if short := SHORT.search(text):
        code = _code(short[1], "")
        if code == _code(text.replace(short[0], " ", 1), ""):
            return code
    return _code(text, url)


def _code(text: str, url: str) -> str:
    words = re.split(r"[^\w.+©®]+|_", _joined(text))
    slug = "-".join(filter(None, words)).rstrip(".")
    if "creativecommons-org" in slug.replace(".", "-") or "://" in text:
        return _of_address(text)
    plain = [w for w in slug.split("-") if w and w not in FILLER and not VERSION.fullmatch(w)]
    name = "-".join(plain)
    if slug in UNSTATED:
        return _of_address(url)
    if (
        slug == "attribution"
    ):  # on Commons terms of the author's own; elsewhere the address may tell
        return _of_address(url) or slug
    for pattern, code in ((CC0, "cc0"), (PUBLIC_DOMAIN, "pdm")):
        if pattern.fullmatch(name) or pattern.fullmatch(slug):
            return code
    return _combined(plain) or slug


def _joined(text: str) -> str:
    """Lower case, with the words of one part in one: Non-Commercial, Share Alike; GBIF's 4_0 is 4.0."""
    text = re.sub(r"_(\d)_(\d)\b", r" \1.\2", text.strip().lower())
    for first, second in (("non", "commercial"), ("no", "deriv"), ("share", "alike")):
        text = re.sub(rf"{first}[\s_-]+{second}", first + second, text)
    return text


def _combined(words: list[str]) -> str:
    """by-nc-sa of [by, nc, sa, de]: parts first, then at most a country, a version or `international`."""
    parts = [WORDS.get(word, word) for word in words]
    known = [part for part in parts if part in PARTS]
    rest = [part for part in parts if part not in PARTS]
    country = all(
        len(part) == 2 or part in ("international", "unported", "generic", "igo") for part in rest
    )
    if "by" not in known or not country or parts[: len(known)] != known:
        return ""
    return "-".join(part for part in PARTS if part in known)


def _of_address(url: str) -> str:
    """The code in an address of creativecommons.org; "" for any other."""
    try:
        parts = urlsplit(url.strip() if "//" in url else f"//{url.strip()}")
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return ""
    if host != "creativecommons.org":
        return ""
    steps = [step for step in parts.path.lower().split("/") if step]
    match steps:
        case ["publicdomain", "zero", *_] | ["licenses", "cc0" | "zero", *_]:
            return "cc0"
        case ["publicdomain", "mark", *_] | ["licenses", "publicdomain", *_]:
            return "pdm"
        case ["licenses", name, *_]:
            return _combined(name.split("-")) or name
    return ""
