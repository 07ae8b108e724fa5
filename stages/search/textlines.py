"""Text lists row by row: a row that cannot be read costs that row and is counted, never the list.

Lists of the web have rows with a cell too many, quotes that nobody closes, bytes of another encoding. A record begins
at a line. Where its quotes do not close as they should, or it swallows rows with addresses of their own, its first line
is read alone, and the next record begins at the second.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from stages.search.cells import WEB
from webdistill.harness.wording import plural

LONGEST = 1 << 22  # characters of a record
MOST_LINES = 1000  # of a record: a quote that is open for longer was never meant to be closed
SHOWN = 5  # line numbers that people are told
NOTE = re.compile(r"#|//\s")  # begins a line that is none of the list
PREFACE = re.compile(  # lines before a list begins: notes, Excel's mark, rows without a cell that says something
    rf"\s*+(?:(?:{NOTE.pattern}).*|(\"?)sep=.\1)?[\s,;|]*+", re.DOTALL
)
UNREADABLE = "\udc80"  # for a line that is too long, or half a character; no text, so that its row is left out
PACKED = (".gz", ".bz2", ".xz", ".zst")
WESTERN = re.compile(r"[\x01-\x7f\udc80-\udcff]+")  # a line that is no UTF-8 anywhere


@dataclass
class Lost:
    """Rows of a list that could not be read: how many, and at which lines the first of them begin.

    `western`: lines that were read in the letters of Windows, for want of UTF-8.
    """

    count: int = 0
    lines: list[int] = field(default_factory=list)
    western: int = 0

    def add(self, line: int) -> None:
        """One more."""
        self.count += 1
        if len(self.lines) < SHOWN:
            self.lines.append(line)

    def where(self) -> str:
        """Line numbers for people."""
        more = ", ..." if self.count > len(self.lines) else ""
        return f"line{'s' if self.count > 1 else ''} {', '.join(map(str, self.lines))}{more}"

    def told(self, name: str) -> Iterator[str]:
        """What to say of the list `name`."""
        if self.count:
            which = "which is" if self.count == 1 else "which are"
            yield f"{plural(self.count, f'row of {name}')} left out, {which} not as its first: {self.where()}"
        if self.western:
            are = "is no UTF-8 and was" if self.western == 1 else "are no UTF-8 and were"
            yield f"{plural(self.western, f'line of {name}')} {are} read as Windows-1252"


class Dialect(TypedDict):
    """What csv.reader is told."""

    delimiter: str
    skipinitialspace: bool


def dialect(delimiter: str) -> Dialect:
    """People write a space behind a comma, also before a quote."""
    return {"delimiter": delimiter, "skipinitialspace": True}


@dataclass(frozen=True)
class Form:
    """How a text list is written; `width`: cells of a row.

    Cells at the end of a header that are empty name nothing, so a row need not have them: it has `least` or more.
    """

    delimiter: str
    quotes: bool  # False: a quote is a quote
    width: int
    least: int

    @property
    def dialect(self) -> Dialect:
        """For csv.reader."""
        return dialect(self.delimiter)

    def fitted(self, row: list[str]) -> list[str] | None:
        """`width` cells; None for other numbers of them. Empty ones too many, as of a comma at the end, say nothing."""
        if len(row) == self.width:
            return row
        if any(map(str.strip, row[self.width :])) or len(row) < self.least:
            return None
        return row[: self.width] + [""] * (self.width - len(row))

    def alone(self, line: str) -> list[str] | None:
        """The cells of one line, with quotes as they happen to be, or as letters like others; None for other widths."""
        try:
            row = next(csv.reader([line], **self.dialect), [])
            if self.fitted(row) is None and '\\"' in line:  # as Spark and MySQL write a quote
                row = next(csv.reader([line], escapechar="\\", **self.dialect), [])
        except csv.Error:
            row = []
        whole = self.fitted(row)
        if whole is None:
            whole = self.fitted([_unquoted(cell) for cell in line.split(self.delimiter)])
        return [cell.rstrip("\r\n") for cell in whole] if whole else None

    def swallowed(self, line: tuple[int, str]) -> bool:
        """Whether a line within a cell of several lines looks like a row of its own."""
        return any(map(WEB.match, self.alone(line[1]) or ()))


def _unquoted(cell: str) -> str:
    """Without a quote before it that nobody closes."""
    return cell[1:] if cell[:1] == '"' and cell.count('"') % 2 else cell


def _cut(error: UnicodeError) -> tuple[str, int]:
    """What is no character in UTF-16 or UTF-32, as where a file was cut within one, costs its line."""
    assert isinstance(error, UnicodeDecodeError)
    return UNREADABLE, error.end


codecs.register_error("webdistill-cut", _cut)


class Lines:
    """The lines of a text list; those taken since `mark` can be given back. A context manager.

    `begin`: lines before its header, which are none of the list.
    """

    def __init__(self, path: Path, begin: int = 0) -> None:
        with _open(path) as file:
            start = file.read(4)
        encoding = _encoding(start)
        errors = "surrogateescape" if encoding == "utf-8-sig" else "webdistill-cut"
        self._file = io.TextIOWrapper(_open(path), encoding, errors, newline="")
        self._number = self._size = 0
        self._unicode = encoding != "utf-8-sig" or start.startswith(codecs.BOM_UTF8)
        self.western = 0  # lines that were no Unicode so far
        self._begun = False
        self._back: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []
        for _ in range(begin):
            self._file.readline()
            self._number += 1

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        if self.taken and (len(self.taken) >= MOST_LINES or self._size > LONGEST):
            raise csv.Error("a record without an end")
        number, line = self._back.popleft() if self._back else self._read()
        self.taken.append((number, line))
        self._size += len(line)
        return line

    def mark(self) -> None:
        """A record begins."""
        self.taken = []
        self._size = 0

    def give_back(self) -> None:
        """All but the first line since `mark` come again."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def _read(self) -> tuple[int, str]:
        line = self._file.readline(LONGEST)
        while not self._begun and line and PREFACE.fullmatch(line):
            self._number += 1
            line = self._file.readline(LONGEST)
        if not line:
            raise StopIteration
        self._begun = True
        self._number += 1
        line = line.removeprefix("\ufeff")  # where files were joined
        if len(line) == LONGEST and not line.endswith(("\n", "\r")):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(("\n", "\r")):
                pass
            return self._number, UNREADABLE
        return self._number, line if line.isascii() else self._as_meant(line)

    def _as_meant(self, line: str) -> str:
        """In the letters of Windows where neither this line nor one before it is UTF-8, as Excel saves a CSV."""
        if _has_code(line):
            self._unicode = True
        elif not self._unicode and WESTERN.fullmatch(line):
            with contextlib.suppress(UnicodeDecodeError):
                line = line.encode(errors="surrogateescape").decode("cp1252")
                self.western += 1
        return line


def _encoding(start: bytes) -> str:
    """Of a list that begins so: by its byte order mark, or by the zero beside its first letter."""
    if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if start.count(0) == 3 and start[1:3] == b"\0\0":
        return "utf-32-le" if start[0] else "utf-32-be"
    if b"\0" in start[:2] and start[:2] != b"\0\0":
        return "utf-16-le" if start[1] == 0 else "utf-16-be"
    return "utf-8-sig"


def _open(path: Path) -> Any:
    """The file as bytes, unpacked where its name says that it is packed."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            return pa.input_stream(path, "zstd")
    return path.open("rb")


def cells(lines: Lines, form: Form, lost: Lost) -> Iterator[list[str]]:
    """Rows of `form.width` cells; what has no such form is counted in `lost`, blank lines are passed by."""
    reader = csv.reader(
        lines,
        **form.dialect,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if form.quotes else csv.QUOTE_NONE,
    )
    csv.field_size_limit(LONGEST)
    while True:
        lines.mark()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        between = lines.taken[1:-1] if len(lines.taken) > 2 else ()
        again = row is None or any(map(form.swallowed, between))
        whole = form.fitted(row) if row else None
        if whole is not None and not again and is_text(lines):
            yield whole
        elif row != []:
            number, first = lines.taken[0]
            if again:
                lines.give_back()
            alone = form.alone(first) if len(lines.taken) == 1 and is_text(lines) else None
            if alone is None:
                lost.add(number)
            else:
                yield alone


def whole_lines(lines: Lines, lost: Lost) -> Iterator[list[str]]:
    """Rows of one cell, which is the line: commas in it separate nothing, and one at its end nothing from nothing.

    Quotes around it go, as do comments.
    """
    for line in lines:
        cell = line.strip().rstrip(", \t")
        if cell and not is_text(lines):
            lost.add(lines.taken[0][0])
        elif cell and not NOTE.match(cell):
            quoted = cell[0] == cell[-1] == '"' and len(cell) > 1
            yield [cell[1:-1].replace('""', '"') if quoted else cell]
        lines.mark()


def is_text(lines: Lines) -> bool:
    """Whether the lines since `mark` are in the encoding of the file."""
    return all(line.isascii() or _has_code(line) for _, line in lines.taken)


def _has_code(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
