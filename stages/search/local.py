"""search.local: a list, a tar, or a folder with any number of lists, tars and images in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stages.search.folders import folder_rows
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.layout import is_list
from stages.search.lists import ENDINGS, JSON_LINES, ending, image_column, list_rows
from stages.search.sidecars import IMAGES
from stages.search.tars import tar_rows
from stages.search.textlines import Lost
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file

TEXT = "text (.json, .txt) beside no image, and no list of addresses (a JSON list is called .jsonl)"


@dataclass(frozen=True)
class Part:
    """A list, a tar, or the loose images of a folder: `rows()` reads it from its beginning."""

    name: str  # as candidates call it: search.local, or a path that begins with it
    path: Path
    rows: Callable[[], Iterator[Found]]
    column: str = ""  # of a list: with the images' bytes
    lost: Lost = field(
        default_factory=Lost
    )  # rows of a list that could not be read, once they were


@dataclass(frozen=True)
class Local:
    """All parts, lists first; `left_out`: what the folder holds besides, counted by reason."""

    parts: list[Part]
    left_out: dict[str, int]

    def rows(self) -> Iterator[Found]:
        """All rows of all parts."""
        for part in self.parts:
            yield from part.rows()

    def lost(self) -> dict[str, Lost]:
        """The lists with rows that could not be read, or not as UTF-8, once all rows were."""
        return {part.name: part.lost for part in self.parts if part.lost.count or part.lost.western}

    def facts(self, candidates: pa.Table) -> dict[str, dict[str, str]]:
        """What fetch has to know of each list and tar with bytes of candidates: its digest, the images' column."""
        within = pc.is_in(candidates.column("source"), pa.array(["embedded", "tar"]))
        used = set(candidates.filter(within).column("file").unique().to_pylist())
        return {
            part.name: {"sha256": sha256_file(part.path), "column": part.column}
            for part in self.parts
            if part.name in used
        }


def open_local(path: Path, name: str, columns: Mapping[str, str], keywords: Keywords) -> Local:
    """What search.local (`name`, which lies at `path`) holds; its rows are read later.

    Lists come before tars and tars before images: of two rows with one address the first goes before the second, and
    lists tell most. Raises UserError when `path` is none of the three.
    """
    if not path.is_dir():
        if not ending(path.name) and path.suffix.lower() != ".tar":
            if path.suffix.lower() == ".json":  # by its name alone: it may be about an image
                raise UserError(f"search.local: {path} is no list by its name; {JSON_LINES}")
            raise UserError(
                f"search.local: expected a list ({', '.join(ENDINGS)}; text also as .gz, .bz2, .xz or .zst), a .tar or "
                f"a folder with such files or images, found {path}"
            )
        return Local([_part(path, Path(name).as_posix(), columns)], {})
    files, left_out = _walk(path)
    names = [inner for inner in files if _kind(inner) == "list" and not _beside(inner, path)]
    left_out["table beside tars or folders"] = sum(_kind(f) == "list" for f in files) - len(names)
    names += [inner for inner in files if _kind(inner) == "tar"]
    parts = [_part(path / inner, Path(name, inner).as_posix(), columns) for inner in names]
    if images := [inner for inner in files if _kind(inner) == "image"]:
        own = Path(name).as_posix()
        parts.append(Part(own, path, partial(folder_rows, path, own, images, keywords)))
    return Local(parts, {reason: n for reason, n in left_out.items() if n})


def _part(path: Path, name: str, columns: Mapping[str, str]) -> Part:
    if path.suffix.lower() == ".tar":
        return Part(name, path, partial(tar_rows, path, name))
    folder = Path(name).parent.as_posix()
    image, lost = image_column(path, columns), Lost()
    rows = partial(list_rows, path, name, folder, columns, image, lost)
    return Part(name, path, rows, image, lost)


def _kind(inner: str) -> str:
    last = inner.rpartition(".")[2].lower()
    if ending(inner):
        return "list"
    return "tar" if last == "tar" else "image" if last in IMAGES else ""


def _beside(inner: str, root: Path) -> bool:
    """Whether it is only the table of a tar (00000.tar) beside it, or of a folder (00000/) that img2dataset wrote."""
    stem, ending = (root / inner).with_suffix(""), Path(inner).suffix
    if ending != ".parquet":
        return False
    return stem.with_name(f"{stem.name}.tar").is_file() or (
        stem.is_dir() and stem.with_name(f"{stem.name}_stats.json").is_file()
    )


def _walk(root: Path) -> tuple[list[str], dict[str, int]]:
    """Paths within the folder of all files that we know, sorted; hidden ones and links to folders are passed by."""
    found: list[str] = []
    texts: list[str] = []
    left_out = {
        "file of another kind": 0,
        TEXT: 0,
        "file with a name that is no text": 0,
        "link to folders": 0,
    }
    for folder, inner, names in os.walk(root, followlinks=False):
        left_out["link to folders"] += sum(Path(folder, name).is_symlink() for name in inner)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in names:
            path = Path(folder, name).relative_to(root).as_posix()
            if name.startswith("."):
                continue
            if not _is_text(path):
                left_out["file with a name that is no text"] += 1
            elif _is_source(Path(folder, name)):
                found.append(path)
            elif name.lower().endswith((".json", ".txt")):
                texts.append(path)
            else:
                left_out["file of another kind"] += 1
    left_out[TEXT] = _alone(texts, found)
    return sorted(found), left_out


def _alone(texts: Sequence[str], found: Sequence[str]) -> int:
    """How many texts say nothing of any image; what img2dataset counted says nothing of one either, and is known."""
    images = {_stem(inner) for inner in found if _kind(inner) == "image"}
    told = (_stem(one) in images and one.endswith((".json", ".txt")) for one in texts)
    counted = (one.endswith("_stats.json") for one in texts)
    return sum(not (a or b) for a, b in zip(told, counted, strict=True))


def _stem(inner: str) -> str:
    return Path(inner).with_suffix("").as_posix()


def _is_source(path: Path) -> bool:
    """Whether it is an image, a tar or a list; a text beside an image is its caption, and most others are no lists."""
    kind = _kind(path.name)
    if kind in ("", "image"):
        return kind == "image"
    if not path.is_file():  # a pipe would be waited for
        return False
    return ending(path.name) != ".txt" or is_list(path)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
