"""/.well-known/tdmrep.json: which parts of a site its owner reserves against text and data mining.

    [{"location": "/images/*", "tdm-reservation": 1, "tdm-policy": "https://..."}, ...]

https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/. Locations are patterns as in robots.txt (a
prefix, `*`, `$`), and are understood as there: the longest that matches counts. A lone entry is a list of one, and an
address is its path. What is no such list reserves nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from protego import Protego

PLACE = "/.well-known/tdmrep.json"
ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def reserved(data: bytes) -> Protego | None:
    """What allows the paths that may be used and disallows those that are reserved; None: nothing is reserved."""
    try:
        listed = json.loads(data)  # in UTF-8, UTF-16 or UTF-32
    except (ValueError, RecursionError):
        return None
    several = listed if isinstance(listed, list) else [listed]
    entries = [
        {key.lower().replace("_", "-"): value for key, value in one.items()}
        for one in several
        if isinstance(one, dict)
    ]
    places = {_location(one): False for one in entries if one.get("tdm-reservation") in (0, "0")}
    places |= {_location(one): True for one in entries if one.get("tdm-reservation") in (1, "1")}
    if not any(places.values()):
        return None
    lines = [f"{'Disallow' if no else 'Allow'}: {place}" for place, no in places.items()]
    return Protego.parse("\n".join(["User-agent: *", *lines]))


def _location(entry: dict[str, Any]) -> str:
    """The pattern; the whole site where there is none, or none that can be understood."""
    place = entry.get("location")
    if not isinstance(place, str) or not place or CONTROL.search(place):
        return "/"
    place = ORIGIN.sub("", place.strip()).replace("#", "%23")
    return place if place.startswith(("/", "*")) else f"/{place}"
