"""Put it together: pictures through the student, as a table or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webdistill.commands.predict import pictures, students

HEADER = ("path", "class", "probability", "error")


@dataclass(frozen=True)
class Row:
    """A picture's class and its probability, or why there is none."""

    path: Path
    name: str = ""
    probability: float = 0.0
    error: str = ""


def run(student: Path, images: Sequence[Path], *, as_csv: bool) -> tuple[str, int]:
    """-> text, exit code. Raises UserError when the student, or a folder of pictures, is none."""
    loaded = students.load(student)
    rows = list(predictions(loaded, pictures.listed(images)))
    code = 2 if all(row.error for row in rows) else 0
    return _csv(rows) if as_csv else _table(rows), code


def predictions(student: students.Student, paths: Sequence[Path]) -> Iterator[Row]:
    """A row per picture, in order."""
    for part, found in pictures.batches(paths, student.size):
        readable = [pixels for pixels in found if not isinstance(pixels, str)]
        shares = iter(probabilities(student.logits(np.stack(readable)))) if readable else iter(())
        for path, answer in zip(part, found, strict=True):
            if isinstance(answer, str):
                yield Row(path, error=answer)
            else:
                share = next(shares)
                yield Row(path, student.classes[int(share.argmax())], float(share.max()))


def probabilities(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Softmax of [B, K]."""
    z = logits.astype(np.float64)
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rows:
        share = "" if row.error else f"{row.probability:.6f}"
        writer.writerow((row.path, row.name, share, row.error))
    return file.getvalue().removesuffix("\n")


def _table(rows: Sequence[Row]) -> str:
    cells = [
        (
            _shown(str(row.path)),
            _shown(row.error or row.name),
            "" if row.error else f"{row.probability:.1%}",
        )
        for row in rows
    ]
    cells.insert(0, HEADER[:3])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{path:<{widths[0]}}  {name:<{widths[1]}}  {share:>{widths[2]}}".rstrip()
        for path, name, share in cells
    )


def _shown(text: str) -> str:
    """The name of a file, or of a class in somebody's student, may hold what moves the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
