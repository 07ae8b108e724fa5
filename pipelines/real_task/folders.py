"""The study's inputs as a user has them: folders of pictures, a file of weights. For docs/own_teacher.md.

    python -m pipelines.real_task.folders FOLDER

After `prepare` and `teacher`. Writes into FOLDER, which must not exist: pictures/KEYWORD/, labelled/CLASS/,
classes.txt, teacher.safetensors (the weights alone), nets/short_lite.py and clip/, the quickstart's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shared.program import argument, run
from webdistill.core.errors import UserError
from webdistill.models.checkpoint import WEIGHTS, read_card

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def export(work: Path, folder: Path) -> None:
    """Raises UserError when the study's teacher is missing or the folder is there."""
    if not (work / "teacher").is_dir():
        raise UserError(f"{work / 'teacher'} does not exist; run pipelines.real_task.teacher")
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder")
    classes = read_card(work / "teacher").classes
    candidates = pq.read_table(work / "list.parquet", columns=["image", "query"])
    for row, (data, keyword) in enumerate(zip(*_lists(candidates), strict=True)):
        _write(folder / "pictures" / keyword / f"{row:04d}.jpg", data)
    images = pq.read_table(work / "test" / "images.parquet")["image"].to_pylist()
    labels = pq.read_table(work / "test" / "labels.parquet")["label"].to_pylist()
    for row, (cell, label) in enumerate(zip(images, labels, strict=True)):
        _write(folder / "labelled" / classes[label] / f"{row:04d}.webp", cell["bytes"])
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    shutil.copyfile(work / "teacher" / WEIGHTS, folder / "teacher.safetensors")
    (folder / "nets").mkdir()
    shutil.copyfile(ROOT / "nets" / "short_lite.py", folder / "nets" / "short_lite.py")
    shutil.copytree(ROOT / "data" / "quickstart" / "clip", folder / "clip")


def _lists(table: pa.Table) -> list[list[Any]]:
    return [column.to_pylist() for column in table.columns]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def main(folder: Path) -> None:
    export(HERE / "work", folder)


if __name__ == "__main__":
    run(main, argument("folder", type=Path))
