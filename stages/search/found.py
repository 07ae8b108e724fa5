"""One candidate on its way from a source, and the columns of candidates.parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

Ask = Callable[[Mapping[str, str]], dict[str, Any]]  # query of one request to an API -> its answer


class Found(NamedTuple):  # a tuple, not a dataclass: made a million times, one per row
    """What a source knows of one image; "" where it knows nothing. In the order of candidates.parquet."""

    url: str = ""
    source: str = "http"  # http | file | embedded | tar
    file: str = ""  # the list, tar or folder that holds the bytes
    row: int = 0  # of the list; running number of the member in the tar
    provider: str = ""  # list | folder | webdataset | openverse | wikimedia | inaturalist
    query: str = ""
    caption: str = ""
    licence: str = ""
    licence_url: str = ""
    creator: str = ""
    landing_page: str = ""
    attribution: str = ""
    opt_out: str = ""
    sha256: str = ""  # of the bytes that the list's makers saw at the address
    md5: str = ""
    origin: str = ""  # of a file: the address that it was downloaded from
    punsafe: float | None = None  # scores that lists bring along; None where one has none
    nsfw: float | None = None
    pwatermark: float | None = None
    aesthetic: float | None = None
    similarity: float | None = None


SOURCES = ("embedded", "file", "http", "tar")
PROVIDERS = ("list", "folder", "webdataset", "openverse", "wikimedia", "inaturalist")
SCORES = ("punsafe", "nsfw", "pwatermark", "aesthetic", "similarity")
TYPES = {"row": pa.int64(), **dict.fromkeys(SCORES, pa.float64())}
SCHEMA = pa.schema([(name, TYPES.get(name, pa.string())) for name in Found._fields])
