"""The teacher's answers to views. A view that comes again is answered once, for the whole pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stages.distill import ranks
from stages.distill.rows import Rows, write_rows
from webdistill.images.views import Views

Ask = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> logits float32, last maps
LIMIT = 2 << 30  # bytes of answers kept in memory,
ENCODED_LIMIT = 256 << 20  # less where the images are encoded, since they are what does not fit;
FILE_LIMIT = 32 << 30  # of what is more so many in files, where there is a folder for them
BATCH = 128  # images per forward pass; on a CPU faster than 512


def kept_in(size: float, *, encoded: bool, files: bool) -> Literal["memory", "files", "nothing"]:
    """Where `size` bytes of answers are kept; `encoded`: the images are; `files`: there is a folder for them."""
    if size <= (min(LIMIT, ENCODED_LIMIT) if encoded else LIMIT):
        return "memory"
    return "files" if files and size <= FILE_LIMIT else "nothing"


@dataclass
class Answer:
    """To one view: logits [N, K] float32 and, for methods that need them, the last maps [N, C, h, w]."""

    logits: Tensor
    maps: Tensor | None

    @property
    def parts(self) -> dict[str, Tensor]:
        """What is kept of it, by name; maps of float32 as bfloat16: half the memory.

        That rounds a target by 0.2 % of its size at most; a student leaves tens of per cent of their variance.
        """
        if self.maps is None:
            return {"logits": self.logits}
        half = self.maps.dtype == torch.float32
        return {"logits": self.logits, "maps": self.maps.bfloat16() if half else self.maps}


@dataclass
class Kept:
    """All answers to one view, like `Answer`, in memory or in files."""

    logits: Tensor | Rows
    maps: Tensor | Rows | None


class Answers:
    """Answers to views of the pool's images; `distinct`: how many views there are that repeat, 0 = none does.

    When views repeat and their answers fit into memory, or into files in `folder`, a view is answered for all images
    when it first comes, in a fixed order: a resumed run computes the same bits, or finds the same files. Otherwise each
    batch is answered as it comes.
    """

    def __init__(
        self,
        forward: Ask,
        views: Views,
        distinct: int,
        needs_maps: bool,
        folder: Path | None = None,
    ) -> None:
        self.forward, self.views, self.distinct, self.needs_maps, self.folder = (
            forward, views, distinct, needs_maps, folder,
        )  # fmt: skip
        self.kept: dict[int, Kept] = {}
        self.keeps: bool | None = (
            None if distinct else False
        )  # None: not known before the first answer
        self._sample: dict[str, Tensor] = {}  # a row of each part, where they are kept in files
        self._dtype = torch.float32  # of maps as they are given

    def __call__(self, view: int, rows: Tensor, images: Tensor) -> Answer:
        """The answer to `images`, which are view `view` of the images `rows` [B]."""
        if self.keeps is False:
            return self._answer(images)
        if view not in self.kept:
            if self.keeps is None:
                first = self._answer(images)
                self._decide(first, len(rows))
                if not self.keeps:
                    return first
            self.kept[view] = self._filed(view) if self._sample else self._whole(view)
        known = self.kept[view]
        maps = known.maps[rows].to(self._dtype) if known.maps is not None else None
        return Answer(known.logits[rows], maps)

    def _answer(self, images: Tensor) -> Answer:
        logits, maps = self.forward(images)
        return Answer(logits, maps if self.needs_maps else None)

    def _decide(self, first: Answer, count: int) -> None:
        """Whether and where answers are kept, by the size of the first `count`."""
        pool = self.views.pool
        per_image = sum(t.numel() * t.element_size() for t in first.parts.values()) / count
        size = per_image * len(pool) * self.distinct
        where = kept_in(size, encoded=not isinstance(pool, Tensor), files=self.folder is not None)
        self.keeps = where != "nothing"
        if first.maps is not None:
            self._dtype = first.maps.dtype
        if where == "files":
            self._sample = {name: part[:1].clone() for name, part in first.parts.items()}

    def _all(self, view: int) -> Iterator[Mapping[str, Tensor]]:
        def answer(rows: Sequence[Tensor]) -> Iterator[Mapping[str, Tensor]]:
            for images in self.views.stream(view, rows):
                yield self._answer(images).parts

        places = torch.arange(len(self.views.pool), device=self.views.pool.device)
        yield from ranks.in_turn(places.split(BATCH), answer)

    def _whole(self, view: int) -> Kept:
        parts = list(self._all(view))
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Kept(found["logits"], found.get("maps"))

    def _filed(self, view: int) -> Kept:
        assert self.folder is not None
        files = {name: self.folder / f"view-{view}.{name}" for name in self._sample}
        if not ranks.told(all(file.exists() for file in files.values())):
            answers = self._all(view)
            if ranks.rank() == 0:
                write_rows(files, answers)
            for _ in answers:  # the other ranks have their turns
                pass
            ranks.told(0)  # that the files are there
        found = {name: Rows(file, self._sample[name]) for name, file in files.items()}
        return Kept(found["logits"], found.get("maps"))
