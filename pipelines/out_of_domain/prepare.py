"""A data set of several domains -> for every student's domain: its own images in three parts, and the teacher's.

    python -m pipelines.out_of_domain.prepare [DOMAIN]     without one: every domain that `settings` names

Reads the data set that prepare.source in params.yaml names (see readers.py) and writes work/<domain>/:

    list.parquet               80 % of the domain: what the student may learn from, as a list for `search`
    val/                       10 %: for choices of settings, read by no cell
    test/                      10 %: images.parquet and labels.parquet, for `evaluate`
    teacher_data.safetensors   all other domains, 90 % to train on and 10 % held out: uint8 [N, S, S, 3] and labels

Parts are cut class by class in the order of the files' hashes: the same files fall into the same parts, in whatever
order they are read. Of pictures with equal pixels one stays; under two classes, none. S is common.task.image_size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from pipelines.out_of_domain.readers import Source, open_source
from pipelines.shared.program import argument, run_study, say
from webdistill.core.errors import UserError
from webdistill.core.files import write_table
from webdistill.images.gate import Rejected, decode, encode, open_image, pixel_id
from webdistill.images.pool import IMAGE_TYPE, square

HERE = Path(__file__).parent
MAX_PIXELS = 100_000_000  # of a picture file, read before decoding
STUDENT = (0.8, 0.1, 0.1)  # train, val, test
TEACHER = (0.9, 0.1)  # train, held out


@dataclass(frozen=True)
class Pictures:
    """Different pictures of a domain, in the order of the hashes of their files."""

    ids: list[str]  # by content, as everywhere
    labels: NDArray[np.int64]  # [N]
    pixels: NDArray[np.uint8]  # [N, S, S, 3]

    def part(self, rows: NDArray[np.int64]) -> Pictures:
        return Pictures([self.ids[row] for row in rows], self.labels[rows], self.pixels[rows])


def load(source: Source, domain: str, classes: Sequence[str], size: int) -> tuple[Pictures, str]:
    """All pictures of a domain as squares of `size` px, and one sentence on them. They are decoded one by one."""
    places = {name: label for label, name in enumerate(classes)}
    found: dict[str, tuple[str, set[int], NDArray[np.uint8]]] = {}  # id -> hash, classes, pixels
    read = refused = 0
    for data, name in source.domains[domain].read(places):
        read += 1
        try:
            image = square(decode(open_image(data, MAX_PIXELS, size).image), size)
        except Rejected:
            refused += 1
            continue
        key, own = hashlib.sha256(data).hexdigest(), pixel_id(image)
        known, under, pixels = found.get(own) or (key, set(), np.asarray(image))
        found[own] = (min(key, known), under | {places[name]}, pixels)
    rows = sorted((key, own) for own, (key, under, _) in found.items() if len(under) == 1)
    if not rows:
        raise UserError(f"the domain '{domain}' has no readable picture of the classes")
    ids = [own for _, own in rows]
    labels = np.array([min(found[own][1]) for own in ids], np.int64)
    equal = read - refused - len(ids)
    told = f"{domain}: {len(ids):,} pictures"
    told += f", {refused:,} refused" if refused else ""
    told += f", {equal:,} left out as equal to another" if equal else ""
    return Pictures(ids, labels, np.stack([found[own][2] for own in ids])), told


def split(labels: NDArray[np.int64], shares: Sequence[float]) -> list[NDArray[np.int64]]:
    """Rows of each part, in order: of every class the first shares[0] go to the first part, and so on."""
    parts: list[list[int]] = [[] for _ in shares]
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ends = np.rint(np.cumsum(shares) * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, ends[:-1]), strict=True):
            part.extend(chosen.tolist())
    return [np.array(sorted(part), np.int64) for part in parts]


def candidates(pictures: Pictures, classes: Sequence[str], licence: str) -> pa.Table:
    """A list for `search`: bytes, the class name as keyword and caption, the terms."""
    names = [classes[label] for label in pictures.labels]
    return pa.table(
        {
            "image": [encode(Image.fromarray(pixels)) for pixels in pictures.pixels],
            "query": names,
            "caption": names,
            "licence": [licence] * len(names),
        }
    )


def write_labelled(pictures: Pictures, folder: Path) -> None:
    """images.parquet (id, image) and labels.parquet (id, label)."""
    cells = [
        {"bytes": encode(Image.fromarray(pixels)), "path": f"{row:05d}.webp"}
        for row, pixels in enumerate(pictures.pixels)
    ]
    images = pa.table({"id": pictures.ids, "image": pa.array(cells, IMAGE_TYPE)})
    folder.mkdir(parents=True, exist_ok=True)
    write_table(images, folder / "images.parquet")
    write_table(pa.table({"id": pictures.ids, "label": pictures.labels}), folder / "labels.parquet")


def teacher_data(every: Mapping[str, Pictures], domain: str) -> dict[str, NDArray[Any]]:
    """The other domains' pictures but for those that the student's domain has, too."""
    own = set(every[domain].ids)
    parts: list[list[Pictures]] = [[] for _ in TEACHER]
    for name, pictures in every.items():
        if name != domain:
            free = np.array([row for row, each in enumerate(pictures.ids) if each not in own])
            allowed = pictures.part(free.astype(np.int64))
            for part, rows in zip(parts, split(allowed.labels, TEACHER), strict=True):
                part.append(allowed.part(rows))
    arrays = {}
    for prefix, part in zip(("", "held_out_"), parts, strict=True):
        arrays[f"{prefix}images"] = np.concatenate([each.pixels for each in part])
        arrays[f"{prefix}labels"] = np.concatenate([each.labels for each in part])
    return arrays


def write_setting(
    every: Mapping[str, Pictures], domain: str, classes: Sequence[str], licence: str, out: Path
) -> str:
    """Write `out` for a student of `domain`. -> one sentence on the sizes of the parts"""
    own = every[domain]
    train, val, test = (own.part(rows) for rows in split(own.labels, STUDENT))
    data = teacher_data(every, domain)
    for name, labels in (("training images", train.labels), ("teacher images", data["labels"])):
        if missing := sorted(set(range(len(classes))) - set(labels.tolist())):
            raise UserError(
                f"student domain '{domain}': class '{classes[missing[0]]}' is left without {name}; "
                "take it out of common.task.classes"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_table(candidates(train, classes, licence), out / "list.parquet")
    write_labelled(val, out / "val")
    write_labelled(test, out / "test")
    save_file(data, out / "teacher_data.safetensors")
    return (
        f"{domain}: {len(train.ids):,} / {len(val.ids):,} / {len(test.ids):,} images for the student, "
        f"{len(data['labels']):,} + {len(data['held_out_labels']):,} held out for the teacher"
    )


def check(settings: Mapping[str, Any], source: Source, wanted: Sequence[str]) -> list[str]:
    """The classes. Raises UserError when they, or a wanted domain, are not in the data set."""
    place, classes = settings["prepare"]["source"], settings["common"]["task"]["classes"]
    for domain in wanted:
        if domain not in source.domains:
            raise UserError(f"{place} has no domain '{domain}'; it has {', '.join(source.domains)}")
    if missing := [name for name in classes if name not in source.classes]:
        raise UserError(
            f"not every domain of {place} has the class '{missing[0]}' of common.task.classes; "
            f"those of all domains are [{', '.join(source.classes)}]"
        )
    return list(classes)


def prepare(settings: Mapping[str, Any], root: Path, out: Path, domain: str | None = None) -> None:
    """Write `out`/<domain>/ for this domain, or for all of `settings`. Raises UserError."""
    source = open_source(root / settings["prepare"]["source"])
    wanted = [domain] if domain is not None else list(settings["settings"])
    classes = check(settings, source, wanted)
    for note in source.notes:
        say(note)
    if others := [name for name in source.classes if name not in classes]:
        say(f"{len(others)} classes of the data set are not in common.task.classes")
    every = {}
    for name in source.domains:
        every[name], told = load(source, name, classes, settings["common"]["task"]["image_size"])
        say(told)
    for name in wanted:
        say(write_setting(every, name, classes, settings["prepare"]["licence"], out / name))


def main(settings: Mapping[str, Any], domain: str | None) -> None:
    prepare(settings, HERE.parents[1], HERE / "work", domain)


if __name__ == "__main__":
    run_study(
        main, argument("domain", nargs="?", help="of the student; default: all in `settings`")
    )
