"""What went wrong, where: while the crawl runs as a note on the progress line, afterwards as a table."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stages.fetch.outcomes import Outcome
from stages.fetch.schedule import host_of

GOOD = ("ok", "duplicate")
CAUSES_SHOWN = 8  # of the table after a run,
HOSTS_SHOWN = 3  # with the worst hosts of each
LOCAL, NONE = "(local)", "(none)"  # stand for the host of what is not on the web, or has no host


def cause(status: str, http_status: int) -> str:
    """A status, told apart by the answer of the server where that says more."""
    return f"{status} {http_status}" if status == "http_error" else status


class Tally:
    """Counts while the crawl runs."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._done = self._told = self._good = self._bytes = 0
        self._failures: Counter[str] = Counter()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count what was finished."""
        for outcome in outcomes:
            self._done += 1
            self._bytes += outcome.size
            if outcome.status in GOOD:
                self._good += 1
            else:
                self._failures[cause(outcome.status, outcome.http_status)] += 1

    def news(self) -> int:
        """How many were finished since the last call."""
        new, self._told = self._done - self._told, self._done
        return new

    def note(self) -> str:
        """MiB/s, share of images, and the three commonest failures, for the progress line."""
        speed = self._bytes / 2**20 / max(time.monotonic() - self._begun, 1e-9)
        share = f"{self._good / max(self._done, 1):.0%} ok"
        worst = [f"{name} {count:,}" for name, count in self._failures.most_common(3)]
        return ", ".join([f"{speed:,.1f} MiB/s", share, *worst])


@dataclass(frozen=True)
class Failures:
    """How often each cause met each host."""

    cause: str
    host: str
    count: int


def failures(ledger: pa.Table) -> list[Failures]:
    """All candidates without an image by cause and host, the commonest first."""
    counts: Counter[tuple[str, str]] = Counter()
    for batch in ledger.select(["status", "http_status", "source", "url"]).to_batches(10_000):
        for status, http_status, source, url in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if status not in GOOD:
                host = (host_of(url) or NONE) if source == "http" else LOCAL
                counts[cause(status, http_status), host] += 1
    found = [Failures(*names, count) for names, count in counts.items()]
    return sorted(found, key=lambda one: (-one.count, one.cause, one.host))


def write_failures(found: Iterable[Failures], path: Path) -> None:
    """As CSV with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("cause", "host", "count"))
        out.writerows((one.cause, one.host, one.count) for one in found)


def table(found: Iterable[Failures]) -> Iterator[str]:
    """Lines for people: a cause, how often, and the hosts that it came from most."""
    causes: dict[str, list[Failures]] = {}
    for one in found:
        causes.setdefault(one.cause, []).append(one)
    counts = {name: sum(one.count for one in some) for name, some in causes.items()}
    order = sorted(causes, key=lambda name: (-counts[name], name))
    width = max(map(len, causes), default=0)
    for name in order[:CAUSES_SHOWN]:
        hosts = [f"{safe(one.host)} {one.count:,}" for one in causes[name][:HOSTS_SHOWN]]
        more = len(causes[name]) - len(hosts)
        hosts += [f"{more:,} more"] if more else []
        yield f"  {name:<{width}}  {counts[name]:>9,}  {', '.join(hosts)}"
    rest = order[CAUSES_SHOWN:]
    if rest:
        yield f"  {'other causes':<{width}}  {sum(counts[name] for name in rest):>9,}"


def safe(host: str) -> str:
    """A host is whatever a list says; it must not drive the terminal."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in host)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
