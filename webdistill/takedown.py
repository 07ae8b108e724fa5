"""takedown.txt: images that nobody may use any more, one entry a line. Promise K4.

    sha256:<64 hex digits>    the original file, as in the ledger; also without `sha256:`
    id:<32 hex digits>        the picture, whatever file it came in; also without `id:`
    https://example.org/a     that address, of the file or of the page it was found on; http, https or neither, with or
                              without tracking parameters (utm_source, ...), in any escapes
    photos/cat.jpg            for local images: the path as in the ledger, with at least one /; also with the folder,
                              tar or list that it came from before it, as in the ledger's column `file`
    "my photos/a cat.jpg"     in double quotes an address or path may have blanks, also before a #; a quote in it is
                              written twice
    host:example.org          everything from that host alone
    *.example.org             everything from example.org and every host below it
    # ...                     a comment, also at the end of a line

An entry means every image of which any candidate in the ledger fits: a file that another host served with the same
pixels goes, too, for it is the same id. A merely similar image, such as a resized copy, is another id and stays: name
it as well.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webdistill.core.errors import UserError
from webdistill.web.normalise import ascii_host, normalise_url, sameness

if TYPE_CHECKING:
    import pyarrow as pa

COMMENT = re.compile(r"(?:^|\s)#.*")
QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?:(?<=\s)#.*)?')
HEX = re.compile(r"[0-9a-f]+")
HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
ON_WEB = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
SITE = re.compile(
    r"(?:[\w-]+\.)+[^\W\d]{2,}\.?/", re.IGNORECASE
)  # a host, as people copy it without its scheme
SECOND = re.compile(r"\shttps?://", re.IGNORECASE)
DIGITS = {"id": 32, "sha256": 64}
FIX = "write sha256:<64 hex digits>, id:<32 hex digits>, an address, host:example.org or *.example.org"
PLACES = ("url", "landing_page", "file", "origin")  # of the ledger, as `lines` takes them
BLANKS = "more than one word; an address or path with blanks stands in double quotes"


@dataclass(frozen=True)
class Takedown:
    """Each entry with the number of its line; of several that say the same, the first."""

    id: Mapping[str, int]
    sha256: Mapping[str, int]
    address: Mapping[str, int]  # as `spelling` has it
    host: Mapping[str, int]
    below: Mapping[str, int]  # this host and all below it

    def by_candidate(self, url: str, page: str, file: str, origin: str = "") -> int:
        """Line of the first entry that means this candidate, by its address or its page's; 0 if none does."""
        return min(self.lines(url, page, file, origin), default=0)

    def lines(self, url: str, page: str, file: str, origin: str = "") -> Iterator[int]:
        """Of all entries that mean a candidate of the list, folder or tar `file`.

        A local one is also known by its whole path, and by the address that it was downloaded from (`origin`); lists
        have pages without a scheme.
        """
        yield from self._lines(url)
        yield from self._lines(origin)
        if file and url and "://" not in url:
            yield from self._lines(f"{file}/{url}")
        yield from self._lines(page if not page or ON_WEB.match(page) else f"//{page}")

    def _lines(self, url: str) -> Iterator[int]:
        if not url:
            return
        yield from _known(self.address, spelling(url))
        if self.host or self.below:
            name = _host(url)
            parts = name.split(".")
            yield from _known(self.host, name)
            for at in range(len(parts)):
                yield from _known(self.below, ".".join(parts[at:]))


def read_takedown(path: Path) -> Takedown:
    """Raises UserError naming the line that is no entry."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    found: dict[str, dict[str, int]] = {
        name: {} for name in ("id", "sha256", "address", "host", "below")
    }
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = _entry(line)
            if not entry:
                continue
            kind, values = parse_entry(entry)
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}; {FIX}") from None
        for value in values:
            found[kind].setdefault(value, number)
    return Takedown(**found)


def taken_down(takedown: Takedown, ledger: pa.Table) -> dict[str, int]:
    """id -> line of takedown.txt that means it. `ledger`: columns id, sha256, url, landing_page, file, origin.

    The ids that takedown.txt itself names are among them, whatever the ledger says.
    """
    return look_up(takedown, ledger)[0]


def look_up(takedown: Takedown, ledger: pa.Table) -> tuple[dict[str, int], list[int]]:
    """-> the same, and the lines that mean no candidate at all: they may be misspelt."""
    found = dict(takedown.id)
    met: set[int] = set()

    def add(name: str, line: int) -> None:
        met.add(line)
        if name:
            found[name] = min(found.get(name, line), line)

    ids = ledger["id"].to_pylist()
    met.update(takedown.id[name] for name in takedown.id.keys() & set(ids))
    if takedown.sha256:
        for name, digest in zip(ids, ledger["sha256"].to_pylist(), strict=True):
            for line in _known(takedown.sha256, digest):
                add(name, line)
    if takedown.address or takedown.host or takedown.below:
        columns = (ledger[name].to_pylist() for name in PLACES)
        for name, *places in zip(ids, *columns, strict=True):
            for line in takedown.lines(*places):
                add(name, line)
    entries = (takedown.id, takedown.sha256, takedown.address, takedown.host, takedown.below)
    return found, sorted({line for each in entries for line in each.values()} - met)


def unquoted(text: str) -> str:
    """The entry in a line that has it in double quotes; any other line as it is."""
    quoted = QUOTED.fullmatch(text)
    return (quoted[1].replace('""', '"') if quoted else text).strip()


def _entry(line: str) -> str:
    """Without quotes or comment. Raises ValueError for blanks outside of quotes, which may be two entries."""
    if QUOTED.fullmatch(line):
        return unquoted(line)
    entry = COMMENT.sub("", line).strip()
    if _has_blanks(entry):
        raise ValueError(BLANKS)
    return entry


def _has_blanks(text: str) -> bool:
    return any(character.isspace() for character in text)


def parse_entry(entry: str) -> tuple[str, tuple[str, ...]]:
    """-> (kind, values: several for an address that may be a path). Raises ValueError with what is wrong.

    `entry`: without quotes around it.
    """
    if SECOND.search(entry):
        raise ValueError("more than one address")
    scheme = SCHEME.match(entry)
    kind = scheme[1].lower() if scheme else ""
    rest = entry[len(kind) + 1 :] if kind in (*DIGITS, "host") else entry
    if kind == "host" or entry.startswith("*."):
        name, value = _pattern(rest)
        return name, (value,)
    digits = rest.lower()
    if kind in DIGITS or HEX.fullmatch(digits):
        wanted = kind or {length: name for name, length in DIGITS.items()}.get(len(digits), "")
        if not wanted or len(digits) != DIGITS[wanted] or not HEX.fullmatch(digits):
            raise ValueError(f"{len(digits)} characters are neither an id nor a sha256 in hex")
        return wanted, (digits,)
    if kind in ("http", "https"):
        if not _host(entry) or _has_blanks(_host(entry)):
            raise ValueError("an address without a host")
    elif kind or "/" not in entry:
        raise ValueError(f"{entry!r} is no entry")
    if "*" in _host(entry) or entry.endswith("/*"):
        raise ValueError("an address has no *")
    return "address", spellings(entry)


def spelling(address: str) -> str:
    """Equal for all spellings of one address, and for those of one local path, such as ./a and b/../a."""
    text = address.strip()
    if SCHEME.match(text) or text.startswith("//"):
        return sameness(text)
    return posixpath.normpath(unicodedata.normalize("NFC", text))


def spellings(text: str) -> tuple[str, ...]:
    """What a user may mean by an address: `example.org/a` is a path, and an address without its scheme."""
    several = (text, f"http://{text}") if SITE.match(text) else (text,)
    return tuple(dict.fromkeys(map(spelling, several)))


def _known(entries: Mapping[str, int], value: str) -> Iterator[int]:
    if line := entries.get(value):
        yield line


def _pattern(text: str) -> tuple[str, str]:
    name = ascii_host(text.removeprefix("*."))
    if not HOST.fullmatch(name):
        raise ValueError(f"{text!r} is no host name or pattern")
    return ("below" if text.startswith("*.") else "host"), name


def _host(url: str) -> str:
    """Of an http(s) address, in ASCII; "" for anything else."""
    try:
        parts = urlsplit(normalise_url(url))
        name = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        name = None
    return ascii_host(name or "")
