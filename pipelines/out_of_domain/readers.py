"""A labelled data set of several domains -> its domains, its classes, its pictures. The layout is found out.

    pacs_s64.parquet   columns image (bytes), domain, class
    OfficeHome/        <domain>/<class>/*.jpg; likewise Office-Caltech
    Office-31/         <domain>/images/<class>/*.jpg
    PACS/              kfold/<domain>/<class>/*.jpg: folders around the domains are stepped into
    VisDA-2017/        train/<class>/, validation/<class>/; test/trunk*/ when test/image_list.txt numbers the classes
    DomainNet/         <domain>/<class>/*.jpg; with <domain>_train.txt or <domain>_test.txt only what these list

Domains are known by their names in lower case with `_` for everything but letters and digits: "Real World" is
real_world. Order is by name, so it does not depend on the file system. Hidden files, links and files that are not
.jpg, .png or .webp are passed over; the data set's own folder may be a link.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from webdistill.core.errors import UserError
from webdistill.core.files import read_table

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DEPTH = 2  # folders around the domains
TRUNK = re.compile(r"trunk[0-9]+")  # what VisDA's test folder has instead of classes
BATCH = 256  # Parquet rows in memory at a time


class Domain(Protocol):
    """One domain: its classes, and its pictures one by one."""

    @property
    def classes(self) -> frozenset[str]: ...

    def read(self, classes: Collection[str]) -> Iterator[tuple[bytes, str]]:
        """File contents and class name of every picture of these classes."""
        ...


@dataclass(frozen=True)
class Source:
    """`classes`: those that all domains have, sorted. `notes`: what was left out, for people."""

    domains: Mapping[str, Domain]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """A domain whose pictures are files. `files`: class -> its files, sorted."""

    files: Mapping[str, tuple[Path, ...]]

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(name for name, paths in self.files.items() if paths)

    def read(self, classes: Collection[str]) -> Iterator[tuple[bytes, str]]:
        for name, paths in sorted(self.files.items()):
            for path in paths if name in classes else ():
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise UserError(f"cannot read {path}: {error.strerror}") from None
                yield data, name


@dataclass(frozen=True)
class Rows:
    """A domain whose pictures are the rows of a Parquet file that have `name` in the column domain."""

    path: Path
    name: str
    classes: frozenset[str]

    def read(self, classes: Collection[str]) -> Iterator[tuple[bytes, str]]:
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(BATCH, columns=["image", "domain", "class"]):
                own = batch.filter(pc.equal(batch["domain"], self.name))
                pictures = own["image"]
                if pa.types.is_struct(pictures.type):
                    pictures = pc.struct_field(pictures, "bytes")
                for data, name in zip(pictures, own["class"].to_pylist(), strict=True):
                    if name in classes:
                        yield data.as_py() or b"", name


def open_source(path: Path) -> Source:
    """The data set behind a Parquet file or a folder. Raises UserError when it is none of the layouts above."""
    if not path.exists():
        raise UserError(f"the data set {path} does not exist; name it as prepare.source")
    found, notes = _rows(path) if path.is_file() else _folders(path)
    if len(found) < 2:
        raise UserError(f"{path} holds {len(found)} domain; prepare.source needs at least two")
    domains: dict[str, Domain] = {}
    for name, domain in sorted(found.items()):
        short = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        if not short or short in domains:
            raise UserError(f"{path}: rename the domain '{name}'; '{short}' is empty or taken")
        domains[short] = domain
    every = [domain.classes for domain in domains.values()]
    common = sorted(frozenset.intersection(*every))
    if len(common) < 2:
        told = "; ".join(f"{name} has {', '.join(_few(d.classes))}" for name, d in domains.items())
        raise UserError(f"{path}: the domains have no two classes in common: {told}")
    if others := sorted(frozenset.union(*every) - set(common)):
        notes.append(f"{len(others)} classes are not in all domains: {', '.join(_few(others))}")
    return Source(domains, tuple(common), tuple(notes))


def _few(names: Collection[str]) -> list[str]:
    return [*sorted(names)[:5], *(["..."] if len(names) > 5 else [])]


def _rows(path: Path) -> tuple[dict[str, Domain], list[str]]:
    table = read_table(path, ["domain", "class"])
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"{path} needs a column 'image' with the bytes of picture files")
    classes: dict[str, set[str]] = {}
    for domain, name in zip(table["domain"].to_pylist(), table["class"].to_pylist(), strict=True):
        if not isinstance(domain, str) or not isinstance(name, str):
            raise UserError(f"{path}: the columns 'domain' and 'class' must hold a text each")
        classes.setdefault(domain, set()).add(name)
    return {name: Rows(path, name, frozenset(own)) for name, own in classes.items()}, []


def _folders(path: Path) -> tuple[dict[str, Domain], list[str]]:
    root, domains = _root(path)
    found = {name: {c: _pictures(f) for c, f in own.items()} for name, own in domains.items()}
    notes: list[str] = []
    trunks = [name for name, own in found.items() if all(TRUNK.fullmatch(c) for c in own)]
    named = sorted({c for name, own in found.items() if name not in trunks for c in own})
    for name in trunks:
        files = _numbered(root / name, found.pop(name), named)
        if files is None:
            notes.append(f"{root / name} is left out: its image_list.txt does not number classes")
        else:
            found[name] = files
    for name, own in found.items():
        found[name] = _listed(root, name, own, notes)
    return {name: Files(own) for name, own in found.items()}, notes


def _root(path: Path) -> tuple[Path, dict[str, dict[str, Path]]]:
    """The folder of the domains, and domain -> class -> folder."""
    level = [path]
    for _ in range(DEPTH + 1):
        tried = [(folder, _domains(folder)) for folder in level]
        good = [each for each in tried if each[1]]
        if len(good) == 1:
            return good[0]
        if good:
            names = " and ".join(str(folder) for folder, _ in good[:2])
            raise UserError(f"{path} holds several data sets, {names}; name one as prepare.source")
        level = [child for folder in level for child in _children(folder)]
    raise UserError(
        f"{path} holds no folders <domain>/<class>/ with pictures, of two domains at least"
    )


def _domains(folder: Path) -> dict[str, dict[str, Path]]:
    """Domain -> class -> folder of the domains directly below; empty when there are fewer than two."""
    found = {child.name: _classes(child) for child in _children(folder)}
    found = {name: own for name, own in found.items() if own}
    return found if len(found) > 1 else {}


def _classes(domain: Path) -> dict[str, Path]:
    """Class -> folder, below the domain or its folder `images`; empty when there are fewer than two."""
    below = _children(domain)
    inner = domain / "images"
    if inner in below and not _pictures(inner):
        below = _children(inner)
    found = {child.name: child for child in below if _pictures(child)}
    return found if len(found) > 1 else {}


def _children(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.is_dir() and each.name != "__MACOSX"]


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(e for e in _visible(folder) if e.suffix.lower() in SUFFIXES and e.is_file())


def _visible(folder: Path) -> list[Path]:
    try:
        every = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None
    return [each for each in every if not each.name.startswith(".") and not each.is_symlink()]


def _numbered(
    domain: Path, trunks: Mapping[str, tuple[Path, ...]], classes: list[str]
) -> dict[str, tuple[Path, ...]] | None:
    """VisDA's test folder: `trunk00/<file> <number>` in image_list.txt, numbers in the order of class names."""
    path = domain / "image_list.txt"
    numbers = dict(_lines(path)) if path.is_file() else {}
    if not numbers or "" in numbers.values():
        return None
    found: dict[str, list[Path]] = {name: [] for name in classes}
    for file in (each for own in trunks.values() for each in own):
        number = numbers.get(file.relative_to(domain).as_posix())
        if number is None:
            continue
        if not number.isdecimal() or int(number) >= len(classes):
            raise UserError(f"{path}: '{number}' numbers none of {len(classes)} classes")
        found[classes[int(number)]].append(file)
    return {name: tuple(files) for name, files in found.items()}


def _listed(
    root: Path, domain: str, own: dict[str, tuple[Path, ...]], notes: list[str]
) -> dict[str, tuple[Path, ...]]:
    """DomainNet: `<domain>/<class>/<file> <number>` in <domain>_train.txt and <domain>_test.txt."""
    lists = [root / f"{domain}_{part}.txt" for part in ("train", "test")]
    lists = [path for path in lists if path.is_file()]
    if not lists:
        return own
    wanted = {name for path in lists for name, _ in _lines(path)}
    kept = {
        name: tuple(file for file in files if file.relative_to(root).as_posix() in wanted)
        for name, files in own.items()
    }
    count, there = sum(map(len, own.values())), sum(map(len, kept.values()))
    if not there:
        raise UserError(f"{lists[0]} lists none of the {count} pictures of {root / domain}")
    if there < count or there < len(wanted):
        names = " and ".join(path.name for path in lists)
        notes.append(f"{names} list {len(wanted):,} pictures; {there:,} of {count:,} here are used")
    return kept


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(path, number) of every line; number "" where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, number = line.rpartition(" ")
        yield (name, number) if name else (number, "")
