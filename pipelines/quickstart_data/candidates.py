"""One candidate of each kind: a photograph, a copy, a leak, junk, or a file that is no picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from pipelines.quickstart_data import damage, shifts
from pipelines.quickstart_data.classes import CLASSES
from pipelines.quickstart_data.junk import JUNK, SHARES, junk
from pipelines.quickstart_data.listing import OPT_OUTS
from pipelines.quickstart_data.stock import Stock

LOOK_ALIKES = {
    "airplane": ("bird", "ship"), "automobile": ("truck",), "bird": ("airplane", "frog"), "cat": ("dog",),
    "deer": ("horse",), "dog": ("cat",), "frog": ("bird",), "horse": ("deer", "dog"),
    "ship": ("airplane", "truck"), "truck": ("automobile",),
}  # fmt: skip
NOT_IMAGE_SHARES = (0.3, 0.14, 0.16, 0.12, 0.08, 0.08, 0.12)
LEAKS = ("copy", *shifts.NEAR)


@dataclass(frozen=True)
class Source:
    """images [N, 32, 32, 3] uint8 with labels [N]; the test set's likewise, with ids; digits [D, 28, 28]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    test_ids: list[str]
    digits: NDArray[np.uint8]

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])


@dataclass(frozen=True)
class Candidate:
    """One row to be. `parent` is the row it copies, `source` the image's place in its source; -1 = none."""

    data: bytes
    keyword: int
    kind: str
    true_class: int = -1
    shift: str = ""
    parent: int = -1
    test_id: str = ""
    source: int = -1
    opt_out: str = ""


Make = Callable[[int, Generator], Candidate]


def maker(kind: str, source: Source, stock: Stock, look_alikes: float) -> Make:
    """The function that makes one candidate of a kind for a keyword."""

    def photo(keyword: int, rng: Generator) -> Candidate:
        index = stock.take(keyword)
        image, shift, opt_out = source.picture(index), "", ""
        if kind == "shifted":
            shift = str(rng.choice(list(shifts.SHIFTS)))
            data = shifts.shifted(image, shift, rng)
        elif kind == "tiny":
            side = int(rng.integers(6, 15))
            data = shifts.encode(image.resize((side, side), shifts.LANCZOS), "webp", 85)
        else:
            data = shifts.encode_photo(shifts.web_size(image, rng), rng)
            opt_out = str(rng.choice(OPT_OUTS)) if kind == "opt_out" else ""
        return Candidate(data, keyword, kind, keyword, shift, source=index, opt_out=opt_out)

    def wrong_keyword(keyword: int, rng: Generator) -> Candidate:
        alike = LOOK_ALIKES[CLASSES[keyword]] if rng.random() < look_alikes else ()
        index = stock.take_other(keyword, [CLASSES.index(name) for name in alike], rng)
        shift = str(rng.choice(list(shifts.SHIFTS))) if rng.random() < 0.3 else ""
        image = source.picture(index)
        plain = shifts.encode_photo(shifts.web_size(image, rng), rng)
        data = shifts.shifted(image, shift, rng) if shift else plain
        return Candidate(data, keyword, kind, int(source.labels[index]), shift, source=index)

    def trash(keyword: int, rng: Generator) -> Candidate:
        shift = str(rng.choice(JUNK, p=SHARES))
        return Candidate(
            junk(shift, source.digits, CLASSES[keyword], rng), keyword, kind, shift=shift
        )

    def unreadable(keyword: int, rng: Generator) -> Candidate:
        index = stock.take_other(-1, (), rng)
        image = source.picture(index)
        match kind:
            case "broken":
                shift = str(rng.choice(damage.BROKEN))
                data = damage.broken(image, shift, rng)
            case "truncated":
                shift = str(rng.choice(damage.FORMATS))
                data = damage.truncated(image, shift, rng)
            case "oversized":
                shift = str(rng.choice(damage.OVERSIZED))
                data = damage.oversized(image, shift, rng)
            case _:
                shift = str(rng.choice(damage.NOT_IMAGE, p=NOT_IMAGE_SHARES))
                data = damage.not_image(image, shift, CLASSES[keyword], rng)
        return Candidate(data, keyword, kind, shift=shift, source=index)

    if kind in ("clean", "shifted", "opt_out", "tiny"):
        return photo
    return {"wrong_keyword": wrong_keyword, "junk": trash}.get(kind, unreadable)


def copies(
    rows: list[Candidate], kind: str, count: int, rng: Generator, rngs: Iterator[Generator]
) -> list[Candidate]:
    """Copies of clean and shifted rows; one original in seven or so is copied more than once."""
    originals = np.flatnonzero([row.kind in ("clean", "shifted") for row in rows])
    parents = rng.choice(originals, min(count, len(originals)), replace=False)
    parents = (
        rng.choice(parents[: max(1, count * 6 // 7)], count) if count > len(parents) else parents
    )
    again = rng.random(count) < 1 / 7
    parents = np.where(again, rng.permutation(parents), parents)
    made = []
    for parent in map(int, parents):
        data, shift, own = rows[parent].data, "", next(rngs)
        if kind == "near_duplicate":
            shift = str(own.choice(shifts.NEAR))
            data = shifts.near_copy(shifts.decode(data), shift, own)
        made.append(replace(rows[parent], data=data, kind=kind, shift=shift, parent=parent))
    return made


def leaks(source: Source, count: int, rng: Generator, rngs: Iterator[Generator]) -> list[Candidate]:
    """Near copies (and some exact ones) of images of the test set, found under the right keyword."""
    made = []
    for place in rng.choice(len(source.test_ids), count, replace=False):
        own, image = next(rngs), Image.fromarray(source.test_images[place])
        shift = str(own.choice(LEAKS))
        if shift == "copy":
            data = shifts.encode(image, "webp_lossless")
        else:
            data = shifts.near_copy(image, shift, own)
        label = int(source.test_labels[place])
        made.append(
            Candidate(
                data,
                label,
                "test_leak",
                label,
                shift,
                test_id=source.test_ids[place],
                source=int(place),
            )
        )
    return made
