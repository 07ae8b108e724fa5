"""What a text list's beginning says of its form: separator, header or none, and which column is which."""

from __future__ import annotations

import csv
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stages.search.cells import WEB
from stages.search.columns import MOST, assign, matching, no_address
from stages.search.datasets import Source, headerless, plain, special
from stages.search.textlines import NOTE, Form, Lines, Lost, cells, dialect, whole_lines
from webdistill.core.errors import UserError

SEEN = 100  # rows that are looked at
TITLE = 5  # lines that say something and may stand above a header, as spreadsheets have them
PART = re.compile(r"[/&=()]|\.\w{2,4}$")  # stands in the rest of an address that was cut at a comma
OPEN = re.compile(r"\([^)]*$")  # an address that was cut within a bracket,
VALUE = re.compile(r"=[^&]*$")  # or within a value
NUMBER = re.compile(r"[a-z]?\d[\w.]*")


@dataclass(frozen=True)
class Layout:
    """`form` is None where each line is an address; without a header columns are called 1, 2, 3, and so on."""

    form: Form | None
    names: Sequence[str]
    header: bool
    seen: Sequence[Sequence[str]]  # the first rows below the header
    begin: int = 0  # lines above it

    def peek(self, name: str) -> list[str]:
        """The cells at the list's beginning of a column."""
        at = self.names.index(name)
        return [row[at] for row in self.seen]


def look(path: Path, ending: str, named: Collection[str] = ()) -> Layout:
    """How the list is written; `named`: columns that params.yaml names.

    Raises UserError when it has no line, and what reading a broken file raises.
    """
    begin = _above(path, ending, named)
    first = next(iter(_texts(path, begin)), "")
    if not first:
        raise UserError(f"search.local: cannot read {path}: its first line is empty")
    if first != first.encode("utf-8", "replace").decode():
        raise UserError(f"search.local: cannot read {path}: its first line is no UTF-8; convert it")
    delimiter = _delimiter(first, ending)
    row = [cell.strip() for cell in _first_row(path, delimiter, begin)] if delimiter else [first]
    header = not any(map(WEB.match, row)) and (bool(delimiter) or bool(matching("url", row)))
    if not delimiter or (len(row) == 1 and header):
        rows = _begin(path, None, begin)
        names = row if header else ["1"]
        return Layout(None, names, header, rows[header:], begin)
    quotes = header or delimiter != "\t"  # lists as Google's: a quote is a quote
    if header:
        form = Form(delimiter, quotes, len(row), len(_filled(row)))
        return Layout(form, row, True, _begin(path, form, begin)[1:], begin)
    width = _usual_width(path, delimiter, quotes)
    form = Form(delimiter, quotes, width, width)
    if form.width == 1:
        return Layout(None, ["1"], False, _begin(path, None))
    rows = _begin(path, form)
    known = headerless(rows[0]) if rows else ()
    return Layout(form, known or [str(n + 1) for n in range(form.width)], False, rows)


def is_list(path: Path) -> bool:
    """Whether a text is a list of addresses, and not a caption or a note: its first line is or names an address."""
    try:
        first = next(iter(_texts(path)), "")
        row = _first_row(path, _delimiter(first, ".txt") or ",")
    except (OSError, EOFError, UnicodeError, csv.Error, zlib.error, lzma.LZMAError):
        return False
    return bool(WEB.match(first) or any(map(WEB.match, row)) or matching("url", row))


def sources(path: Path, layout: Layout, columns: Mapping[str, str]) -> dict[str, list[Source]]:
    """Our column -> where its values come from, best first. Raises UserError where that is unclear."""
    present = layout.names
    chosen = assign(path, present, {k: v for k, v in columns.items() if k != "image"}, layout.peek)
    made = {ours: list(map(plain, theirs)) for ours, theirs in chosen.items()}
    made |= {ours: [one] for ours, one in special(present).items() if ours not in columns}
    if "url" in made:
        return made
    if layout.header:
        if images := matching("image", present):  # in a text list it can only be a path
            return {**made, "url": [plain(images[0])]}
        raise no_address(path, present, layout.peek)
    addresses = [name for name in present if _mostly_web(layout.peek(name))]
    if len(addresses) != 1:
        raise _which(path, layout, addresses)
    made["url"] = [plain(addresses[0])]
    said = list(present)
    while len(said) > 2 and not any(map(str.strip, layout.peek(said[-1]))):
        said.pop()  # what stands behind a comma at the end of every row
    if len(said) == 2 and "caption" not in made:
        rest = [name for name in said if name != addresses[0] and name not in columns.values()]
        made["caption"] = list(map(plain, rest))
    return {ours: found for ours, found in made.items() if found}


def _which(path: Path, layout: Layout, addresses: Sequence[str]) -> UserError:
    first = layout.seen[0] if layout.seen else []
    cells = zip(layout.names[:MOST], first, strict=False)
    shown = ", ".join(f"{n} ({cell.strip()[:40]!r})" for n, cell in cells)
    example = (addresses or layout.names)[0]
    return UserError(
        f"{path} has no header and web addresses in {'several columns' if addresses else 'no column'}: {shown}; say "
        f'which to take, such as `columns: {{url: "{example}"}}`, under search in params.yaml'
    )


def _delimiter(first: str, ending: str) -> str:
    """What separates cells: a tab wherever there is one; "" where a line is an address."""
    if "\t" in first:
        return "\t"
    header = not WEB.search(first)
    for sign in ";|":
        if header and first.count(sign) > first.count(","):
            return sign
        if not header and ending == ".csv" and -1 < first.find(sign) < (first + ",").find(","):
            return sign
    if ending == ".txt":
        return "," if header and "," in first and matching("url", next(csv.reader([first]))) else ""
    return "," if ending == ".csv" or header else "\t"


def _above(path: Path, ending: str, named: Collection[str]) -> int:
    """Lines above the header, where the first that says something is neither a header nor a row, but a later one is."""
    told = _numbered(path, TITLE + 1)
    for at, (number, line) in enumerate(told):
        row = [cell.strip() for cell in _row(line, _delimiter(line, ending))]
        if _is_header(row, named):
            return number - 1 if at else 0
        if any(map(WEB.match, row)) or matching("image", row) or special(row):
            break
    return 0


def _row(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], **dialect(delimiter)), []) if delimiter else [line]


def _is_header(row: Sequence[str], named: Collection[str]) -> bool:
    return bool(matching("url", row) or not set(row).isdisjoint(named))


def _begin(path: Path, form: Form | None, begin: int = 0) -> list[list[str]]:
    with Lines(path, begin) as lines:
        rows = cells(lines, form, Lost()) if form else whole_lines(lines, Lost())
        return list(islice(rows, SEEN))


def _texts(path: Path, begin: int = 0) -> list[str]:
    """The first lines that say something, without comments."""
    return [line for _, line in _numbered(path, SEEN, begin)]


def _numbered(path: Path, most: int, begin: int = 0) -> list[tuple[int, str]]:
    """The same with their numbers."""
    found: list[tuple[int, str]] = []
    with Lines(path, begin) as lines:
        for line in lines:
            ((number, _),) = lines.taken
            lines.mark()
            if line.strip() and not NOTE.match(line.strip()):
                found.append((number, line.strip()))
            if len(found) == most:
                break
    return found


def _first_row(path: Path, delimiter: str, begin: int = 0) -> list[str]:
    with Lines(path, begin) as lines:
        return next((row for row in csv.reader(lines, **dialect(delimiter)) if row), [])


def _usual_width(path: Path, delimiter: str, quotes: bool) -> int:
    """How many cells the rows of a list without a header have; 1 where the commas are parts of addresses."""
    texts = _texts(path)
    rows = [
        next(csv.reader([line], **dialect(delimiter)), []) if quotes else line.split(delimiter)
        for line in texts
    ]
    several = [row for row in map(_filled, rows) if len(row) > 1]
    spaced = any(re.search(r'[\s"]', line) for line in texts)
    cut = 2 * sum(map(_is_cut, several)) >= len(several) if several else set(map(len, rows)) == {1}
    if cut and (delimiter in ";|" or (delimiter == "," and not spaced)):
        return 1
    return Counter(map(len, rows)).most_common(1)[0][0]


def _filled(row: Sequence[str]) -> Sequence[str]:
    """Without empty cells at its end."""
    return row[: max((n for n, cell in enumerate(row, 1) if cell.strip()), default=0)]


def _is_cut(row: Sequence[str]) -> bool:
    """Whether the row is one address that has commas."""
    web = [n for n, cell in enumerate(row) if WEB.match(cell)]
    numbers = len(row) > 2 and VALUE.search(row[0]) and all(map(NUMBER.fullmatch, row[1:]))
    return web == [0] and bool(numbers or OPEN.search(row[0]) or any(map(PART.search, row[1:])))


def _mostly_web(cells: Sequence[str]) -> bool:
    return 2 * sum(bool(WEB.match(cell)) for cell in cells) > len(cells)
