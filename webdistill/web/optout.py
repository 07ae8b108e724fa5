"""What the headers of an answer say against the use of an image.

X-Robots-Tag (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag), with the words noai and
noimageai that image hosts send against training; tdm-reservation
(https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/), whose file tdmrep.py reads;
Content-Usage and Content-Signal, which usage.py reads.
"""

from __future__ import annotations

import re

from multidict import CIMultiDictProxy

from webdistill.web.usage import AGENT, in_headers

REFUSALS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# `none` means noindex, nofollow
OURS = frozenset({"", "*", "robots", AGENT})  # whom a word is meant for
WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", "rating"}
)
DATE = re.compile(
    r"\d{1,2}[- ][a-z]{3}[- ]\d{2,4} "
)  # behind the comma of `unavailable_after: Wed, 25 Jun 2010`
RESERVED = frozenset({"1", "?1", "true", "yes"})


def opt_out(headers: CIMultiDictProxy[str]) -> str:
    """The header that refuses, as "X-Robots-Tag: noai" or "Content-Usage: train-ai=n", or ""."""
    for value in headers.getall("X-Robots-Tag", ()):
        word = _refusal(value)
        if word:
            return f"X-Robots-Tag: {word}"
    reserved = headers.getall("tdm-reservation", ())
    if reserved and RESERVED & set(re.split(r"[\s,;\"']+", ",".join(reserved).lower())):
        return "tdm-reservation: 1"
    return in_headers(headers)


def _refusal(value: str) -> str:
    """The first word that refuses everybody, or us; "bot: word, word" is for that bot until the next one is named."""
    agent = ""
    for part in re.split(r"[,;]", re.sub(r"[\"']", "", value.lower())):
        name, colon, rest = part.partition(":")
        name = name.strip().partition("/")[0]
        if name in WITH_VALUE or DATE.match(part.strip()):
            continue
        if colon:
            agent = name
        if agent in OURS:
            for word in (rest if colon else part).split():
                if word in REFUSALS:
                    return word
    return ""
