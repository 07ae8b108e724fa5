"""takedown.txt: images that nobody may use any more, one entry a line. Promise K4.

    sha256:<64 hex digits>    the original file, as in the ledger; also without `sha256:`
    id:<32 hex digits>        the picture, whatever file it came in; also without `id:`
    https://example.org/a     that address, of the file or of the page it was found on; http or https, with or without
                              tracking parameters (utm_source, ...), in any escapes
    photos/cat.jpg            for local images: the path as in the ledger, with at least one /; also with the folder,
                              tar or list that it came from before it, as in the ledger's column `file`
    host:example.org          everything from that host alone
    *.example.org             everything from example.org and every host below it
    # ...                     a comment, also at the end of a line

An entry means every image of which any candidate in the ledger fits: a file that another host served with the same
pixels goes, too, for it is the same id. A merely similar image, such as a resized copy, is another id and stays: name
it as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webdistill.core.errors import UserError
from webdistill.web.normalise import ascii_host, normalise_url, sameness

if TYPE_CHECKING:
    import pyarrow as pa

COMMENT = re.compile(r"(?:^|\s)#.*")
HEX = re.compile(r"[0-9a-f]+")
HOST = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
DIGITS = {"id": 32, "sha256": 64}
FIX = "write sha256:<64 hex digits>, id:<32 hex digits>, an address, host:example.org or *.example.org"


@dataclass(frozen=True)
class Takedown:
    """Each entry with the number of its line; of several that say the same, the first."""

    id: Mapping[str, int]
    sha256: Mapping[str, int]
    address: Mapping[str, int]  # as `sameness` spells it
    host: Mapping[str, int]
    below: Mapping[str, int]  # this host and all below it

    def by_address(self, url: str) -> int:
        """Line of the first entry that means this address, 0 if none does."""
        if not url:
            return 0
        lines = [self.address.get(sameness(url), 0)]
        if self.host or self.below:
            name = _host(url)
            parts = name.split(".")
            lines.append(self.host.get(name, 0))
            lines += [self.below.get(".".join(parts[at:]), 0) for at in range(len(parts))]
        return min(filter(None, lines), default=0)

    def by_file(self, url: str, file: str) -> int:
        """The same of a candidate of the list, folder or tar `file`: a local one is also known by its whole path."""
        whole = f"{file}/{url}" if file and url and "://" not in url else ""
        return min(filter(None, (self.by_address(url), self.by_address(whole))), default=0)


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
        entry = COMMENT.sub("", line).strip()
        if entry:
            try:
                kind, value = parse_entry(entry)
            except ValueError as error:
                raise UserError(f"{path} line {number}: {error}; {FIX}") from None
            found[kind].setdefault(value, number)
    return Takedown(**found)


def taken_down(takedown: Takedown, ledger: pa.Table) -> dict[str, int]:
    """id -> line of takedown.txt that means it. `ledger`: columns id, sha256, url, landing_page, file.

    The ids that takedown.txt itself names are among them, whatever the ledger says.
    """
    found = dict(takedown.id)

    def add(name: str, line: int) -> None:
        if name and line:
            found[name] = min(found.get(name, line), line)

    if takedown.sha256:
        pairs = zip(ledger["id"].to_pylist(), ledger["sha256"].to_pylist(), strict=True)
        for name, digest in pairs:
            add(name, takedown.sha256.get(digest, 0))
    if takedown.address or takedown.host or takedown.below:
        names = ("id", "url", "landing_page", "file")
        columns = (ledger[name].to_pylist() for name in names)
        for name, url, page, file in zip(*columns, strict=True):
            add(name, takedown.by_file(url, file))
            add(name, takedown.by_address(page))
    return found


def parse_entry(entry: str) -> tuple[str, str]:
    """-> (kind, value). Raises ValueError with what is wrong."""
    if any(character.isspace() for character in entry):
        raise ValueError("more than one word")
    scheme = SCHEME.match(entry)
    kind = scheme[1].lower() if scheme else ""
    rest = entry[len(kind) + 1 :] if kind in (*DIGITS, "host") else entry
    if kind == "host" or entry.startswith("*."):
        return _pattern(rest)
    digits = rest.lower()
    if kind in DIGITS or HEX.fullmatch(digits):
        wanted = kind or {length: name for name, length in DIGITS.items()}.get(len(digits), "")
        if not wanted or len(digits) != DIGITS[wanted] or not HEX.fullmatch(digits):
            raise ValueError(f"{len(digits)} characters are neither an id nor a sha256 in hex")
        return wanted, digits
    if kind in ("http", "https"):
        if not _host(entry):
            raise ValueError("an address without a host")
        return "address", sameness(entry)
    if kind or "/" not in entry:
        raise ValueError(f"{entry!r} is no entry")
    return "address", sameness(entry)


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
