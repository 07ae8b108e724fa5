"""Data sets of several domains, and the pipeline's params.yaml for them."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.out_of_domain.readers import Source
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "out_of_domain"
CLASSES = ["bike", "mug"]
COLOURS = itertools.count()


def picture(suffix: str = ".png", size: tuple[int, int] = (12, 10), colour: int = -1) -> bytes:
    """A picture unlike all before, or one with the number `colour`; its halves differ."""
    number = colour if colour >= 0 else 1_000_000 + next(COLOURS)
    rgb = (number % 251, number // 251 % 251, number // 63_001 % 251)
    image = Image.new("RGB", size, rgb)
    image.paste((rgb[1], rgb[2], rgb[0]), (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    image.save(out, {".jpg": "JPEG", ".JPEG": "JPEG"}.get(suffix, "PNG"))
    return out.getvalue()


def put(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(path.suffix) if data is None else data)
    return path


def tree(root: Path, *domains: str, classes: list[str] = CLASSES, count: int = 2) -> Path:
    """<root>/<domain>/<class>/<number>.png; a domain may end in a folder, as "amazon/images"."""
    for domain, name, number in itertools.product(domains, classes, range(count)):
        put(root / domain / name / f"{number:03d}.png")
    return root


def counts(source: Source) -> dict[str, dict[str, int]]:
    return {
        name: dict(Counter(label for _, label in domain.read(source.classes)))
        for name, domain in source.domains.items()
    }


def parquet(path: Path, rows: list[tuple[bytes, str, str]], struct: bool = False) -> Path:
    images: list[Any] = [{"bytes": r[0], "path": ""} if struct else r[0] for r in rows]
    pq.write_table(
        pa.table({"image": images, "domain": [r[1] for r in rows], "class": [r[2] for r in rows]}),
        path,
        row_group_size=3,
    )
    return path


def settings(source: Path, size: int = 16) -> dict[str, Any]:
    """The pipeline's own params.yaml for a small data set, with a small teacher."""
    values = read_yaml(PIPELINE / "params.yaml")
    values["prepare"]["source"] = str(source)
    values["settings"] = ["one", "three"]
    values["common"]["task"].update(classes=CLASSES, image_size=size, threads=1)
    small = {"architecture": "resnet8", "epochs": 1, "batch_size": 16, "precision": "float32"}
    values["teacher"].update(small)
    return values
