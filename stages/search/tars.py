"""WebDataset tars: files that share a name up to its first dot are one sample; nothing is extracted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from stages.search.found import Found
from stages.search.sidecars import IMAGES, MAX_BYTES, describe
from webdistill.images.tars import Member, read_members


@dataclass
class _Sample:
    key: str
    pictures: list[int] = field(default_factory=list)  # running numbers in the tar
    sidecars: dict[str, bytes] = field(default_factory=dict)


def tar_rows(path: Path, name: str) -> Iterator[Found]:
    """The images of the tar at `path`, which candidates call `name`, in their order.

    Raises UserError when the tar is damaged or was cut short.
    """
    with path.open("rb") as file:
        sample = _Sample("")
        for number, member in enumerate(read_members(path)):
            folder, _, base = member.name.rpartition("/")
            stem, _, endings = base.partition(".")
            key = f"{folder}/{stem}"
            if key != sample.key:
                yield from _found(sample, name)
                sample = _Sample(key)
            ending = endings.rpartition(".")[2].lower()
            if ending in IMAGES:
                sample.pictures.append(number)
            elif ending in ("json", "txt"):
                sample.sidecars.setdefault(ending, _read(file, member))
        yield from _found(sample, name)


def _found(sample: _Sample, name: str) -> Iterator[Found]:
    texts = describe(sample.sidecars) if sample.pictures else {}
    url = texts.pop("url", "")
    for number in sample.pictures:
        yield Found(url, "tar", name, number, "webdataset", **texts)


def _read(file: BinaryIO, member: Member) -> bytes:
    if member.size > MAX_BYTES:
        return b""
    file.seek(member.offset)
    return file.read(member.size)
