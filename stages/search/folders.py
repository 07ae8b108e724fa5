"""Folders of images: the name of a folder that stands for a class is the query; sidecars say the rest."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from stages.search.cells import WEB
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.sidecars import MAX_BYTES, describe

SHOWN = 8  # folders named in a message


def folder_rows(root: Path, name: str, files: Sequence[str], keywords: Keywords) -> Iterator[Found]:
    """The image files (paths within the folder `root`, which candidates call `name`) in the order given."""
    for inner in files:
        sidecars = {e: _read((root / inner).with_suffix(f".{e}")) for e in ("json", "txt")}
        texts = describe(sidecars)
        address = texts.pop("url", "")  # the file's path is the candidate's
        texts["origin"] = address if WEB.match(address) else ""
        texts["landing_page"] = texts.get("landing_page", "") or address
        texts["query"] = texts.get("query", "") or _named(Path(name, inner), keywords)
        yield Found(inner, "file", name, 0, "folder", **texts)


def without_class(candidates: pa.Table) -> str:
    """What to say of folders whose images nothing names, neither a folder nor a caption; "" when all have a class."""
    columns = (candidates.column(name).to_pylist() for name in ("source", "query", "file", "url"))
    nameless: Counter[str] = Counter()
    folders: set[str] = set()
    for source, query, root, inner in zip(*columns, strict=True):
        if source == "file":
            folder = posixpath.dirname(posixpath.join(root, inner))
            folders.add(folder)
            nameless[folder] += not query
    without = sorted(
        ((n, name) for name, n in nameless.items() if n), key=lambda it: (-it[0], it[1])
    )
    if not without:
        return ""
    shown = ", ".join(f"{name} ({n:,})" for n, name in without[:SHOWN])
    more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
    return (
        f"{len(without):,} of {len(folders):,} folders hold images that match no class: {shown}{more}; name a folder "
        "after its class or put its name into search.keywords, else CLIP and teacher alone say what they show"
    )


def _named(path: Path, keywords: Keywords) -> str:
    """The class that the nearest folder above the file stands for, or ""."""
    for folder in reversed(path.parts[:-1]):
        if found := keywords.class_of(folder):
            return found
    return ""


def _read(path: Path) -> bytes:
    """The sidecar; b"" if there is none, or only a link: it could lead to what is no part of the folder."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return data if len(data) <= MAX_BYTES else b""
