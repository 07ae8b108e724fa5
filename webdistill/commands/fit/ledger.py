"""What the ledger of fetch says: licences, and how many candidates became an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from webdistill.core.files import read_table

CAME = frozenset({"ok", "duplicate"})  # duplicate: the same picture as an earlier candidate's


@dataclass(frozen=True)
class Ledger:
    """`licences`: as stated, of the pool's images, "" = none stated. `failures`: status -> candidates."""

    candidates: int
    came: int
    licences: Counter[str]
    failures: Counter[str]
    failing_hosts: Counter[str]


def read_ledger(path: Path) -> Ledger:
    """Raises UserError when the file is damaged."""
    table = read_table(path, ["status", "licence", "url"])
    status, licence, urls = (table[name].to_pylist() for name in ("status", "licence", "url"))
    stated = (
        (text or "").strip().casefold()
        for text, what in zip(licence, status, strict=True)
        if what == "ok"
    )
    failed = [(what, url or "") for what, url in zip(status, urls, strict=True) if what not in CAME]
    return Ledger(
        candidates=len(status),
        came=len(status) - len(failed),
        licences=Counter(stated),
        failures=Counter(what for what, _ in failed),
        failing_hosts=Counter(host for _, url in failed if (host := _host(url))),
    )


def _host(url: str) -> str:
    """ "" for what is no address: rows of lists that hold the images themselves, broken URLs."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
