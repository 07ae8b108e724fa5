"""A row of a list as candidates: one for each address in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.search.cells import DIGESTS, WEB, addresses, known, score
from stages.search.found import SCORES, Found
from webdistill.web.normalise import SCHEME, strip_secrets

Row = tuple[
    dict[str, list[Any]], bool
]  # our column -> cells, best first; whether the row holds an image
BARE = re.compile(r"www\.[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d+)?(?:[/?#]|$)", re.IGNORECASE)


def facts(values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Our columns but for the address, each from the first cell that says something."""
    found: dict[str, Any] = {}
    for ours, cells in values.items():
        if ours in SCORES:
            found[ours] = next((n for n in map(score, cells) if n is not None), None)
        elif ours != "url":
            for cell in cells:
                found[ours] = known(ours, cell)
                if found[ours]:
                    break
    licence = found.get("licence")
    if licence and WEB.match(licence) and not found.get("licence_url"):
        found["licence_url"] = licence
    return found


def found_in(
    values: Mapping[str, Sequence[Any]], holds: bool, name: str, folder: str, row: int, beside: Path
) -> Iterator[Found]:
    """The candidates of a row of the list that candidates call `name`; local paths in it start at `folder`.

    `beside`: where that folder lies.
    """
    urls = addresses(values["url"][0]) if values.get("url") else [""]
    known_of = facts(values)
    if holds or len(urls) > 1:  # the digests are of something else, or nobody says of which
        known_of |= {digest: "" for digest in DIGESTS if digest in known_of}
    if holds:
        yield Found(urls[0], "embedded", name, row, "list", **known_of)
        return
    for url in urls:
        address = f"http://{url}" if BARE.match(url) and not _lies(beside, url) else url
        if not address or SCHEME.match(address) or address.startswith("//"):
            yield Found(address, "http", "", row, "list", **known_of)
        else:
            path = strip_secrets(_of_here(beside, address))
            yield Found(path, "file", folder, row, "list", **known_of)


def _of_here(folder: Path, path: str) -> str:
    """The path, with slashes where it was written on Windows."""
    plain = path.replace("\\", "/")
    return plain if plain != path and not _lies(folder, path) and _lies(folder, plain) else path


def _lies(folder: Path, path: str) -> bool:
    """Whether the folder has it: programs that copy sites name folders after hosts."""
    try:
        return (folder / path).exists()
    except (OSError, ValueError):
        return False
