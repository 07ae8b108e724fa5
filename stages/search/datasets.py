"""Published data sets whose tables do not say all in one column: iNaturalist's open data and YFCC100M.

https://github.com/inaturalist/inaturalist-open-data, https://multimediacommons.wordpress.com/yfcc100m-core-dataset/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

from stages.search.cells import text

PHOTO = "https://inaturalist-open-data.s3.amazonaws.com/photos"
SIZE = "medium"  # 500 px at most, as the pictures of Wikimedia Commons
YFCC = (
    "photoid", "uid", "unickname", "datetaken", "dateuploaded", "capturedevice", "title", "description", "usertags",
    "machinetags", "longitude", "latitude", "accuracy", "pageurl", "downloadurl", "licensename", "licenseurl",
    "serverid", "farmid", "secret", "secretoriginal", "ext", "marker",
)  # fmt: skip
YFCC_NUMBERED = ("line", "photoid", "hash", *YFCC[1:])  # as the table is handed out since 2016
FLICKR = re.compile(r"https?://\S*flickr\.com/", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where a value of ours comes from: columns of the list, and what is made of their cells."""

    columns: tuple[str, ...]
    make: Callable[[Sequence[object]], object]


def plain(column: str) -> Source:
    """The column's cell as it is."""
    return Source((column,), _first)


def special(present: Collection[str]) -> Mapping[str, Source]:
    """Our column -> what it is made of in a table of a data set that we know; empty for any other table."""
    if {"photo_id", "extension", "license"} <= set(present):
        where = ("photo_id", "extension")
        return {"url": Source(where, _photo), "landing_page": Source(where[:1], _photo_page)}
    if {"unickname", "downloadurl", "licenseurl", "title"} <= set(present):
        words = tuple(name for name in ("title", "description", "usertags") if name in present)
        return {"caption": Source(words, _unquoted), "creator": Source(("unickname",), _unquoted)}
    return {}


def headerless(row: Sequence[str]) -> Sequence[str]:
    """The names of the columns of a table without a header that a row is from; none when it is unknown."""
    for names in (YFCC, YFCC_NUMBERED):
        at = names.index("pageurl")
        if len(row) == len(names) and all(map(FLICKR.match, row[at : at + 2])):
            return names
    return ()


def _first(values: Sequence[object]) -> object:
    return values[0]


def _photo(values: Sequence[object]) -> str:
    number, ending = map(text, values)
    return f"{PHOTO}/{number}/{SIZE}.{ending or 'jpg'}" if number else ""


def _photo_page(values: Sequence[object]) -> str:
    number = text(values[0])
    return f"https://www.inaturalist.org/photos/{number}" if number else ""


def _unquoted(values: Sequence[object]) -> str:
    """Texts as people wrote them, which the table has as a query has them: `a+cat%21`."""
    return "; ".join(filter(None, (unquote_plus(text(value)).strip() for value in values)))
