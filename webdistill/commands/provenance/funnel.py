"""Where images went: from candidates over pool and filter to the selection, per reason, with the sums checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from webdistill.commands.provenance.history import (
    CANDIDATES,
    DROPPED,
    KEPT,
    LEDGER,
    POOL,
    SELECTION,
)
from webdistill.commands.provenance.rows import count
from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.harness.wording import plural

By = Literal["query", "host", "provider"]
HOST = re.compile(r"https?://(?:[^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)", re.IGNORECASE)
UNKNOWN = "(none)"  # no keyword, no host, no provider


@dataclass
class Funnel:
    """candidates - not_fetched = pool; pool - dropped = kept; kept - not_selected + restored = selected.

    `restored`: selected although the filter dropped them (select.source: pool).
    """

    candidates: int = 0
    not_fetched: Counter[str] = field(default_factory=Counter)  # by status of the ledger
    pool: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason of the filter
    kept: int = 0
    not_selected: int = 0
    restored: int = 0
    selected: int = 0


@dataclass(frozen=True)
class Lost:
    """`groups`: by what was asked for, largest first; `faults`: one sentence for each sum that does not hold."""

    whole: Funnel
    groups: dict[str, Funnel]
    filtered: bool  # whether filter has run
    chosen: bool  # whether select has run
    faults: list[str]


@dataclass(frozen=True)
class _Verdicts:
    """What filter and select said, by id; None: has not run."""

    reasons: dict[str, str] | None  # of dropped images
    kept: set[str] | None
    selected: set[str] | None

    @property
    def filtered(self) -> bool:
        return self.reasons is not None and self.kept is not None


def count_losses(data: Path, by: By | None = None) -> Lost:
    """Follow every candidate to its end. Raises UserError when fetch has not run or the ledger lacks a column."""
    ledger = _ledger(data / LEDGER, by)
    verdicts = _verdicts(data)
    whole = Funnel()
    groups: dict[str, Funnel] = {}
    rows = zip(_groups(ledger, by), *(ledger[c].to_pylist() for c in ("status", "id")), strict=True)
    for group, status, name in rows:
        for funnel in (whole, groups.setdefault(group, Funnel())):
            _add(funnel, status, name, verdicts)
    faults = [*_foreign(data, ledger, verdicts), *_disagreements(data, whole, verdicts)]
    for name, funnel in [("all", whole), *groups.items()]:
        faults += [f"{name}: {text}" for text in _broken_sums(funnel, verdicts)]
    ordered = dict(sorted(groups.items(), key=lambda item: (-item[1].candidates, item[0])))
    chosen = verdicts.filtered and verdicts.selected is not None
    return Lost(whole, ordered if by else {}, verdicts.filtered, chosen, faults)


def plain(found: Lost) -> dict[str, Any]:
    """For programs; `dataclasses.asdict` mistakes a Counter for pairs."""
    groups = {name: vars(funnel) for name, funnel in found.groups.items()}
    return {**vars(found), "whole": vars(found.whole), "groups": groups}


def _ledger(path: Path, by: By | None) -> pa.Table:
    if not path.is_file():
        raise UserError(f"{path} does not exist; run `dvc repro fetch` or `dvc pull` first")
    more = {"query": ["query"], "provider": ["provider"], "host": ["url", "landing_page"]}
    return read_table(path, ["status", "id", *(more[by] if by else [])])


def _groups(ledger: pa.Table, by: By | None) -> Iterator[str]:
    """Per candidate its group. The host is that of the image, or of its page where the image has no web address."""
    if by is None:
        return iter([""] * ledger.num_rows)
    if by == "host":
        pairs = zip(ledger["url"].to_pylist(), ledger["landing_page"].to_pylist(), strict=True)
        return (_host(url) or _host(page) or UNKNOWN for url, page in pairs)
    return (name or UNKNOWN for name in ledger[by].to_pylist())


def _host(url: str | None) -> str:
    match = HOST.match(url or "")
    return match.group(1).lower() if match else ""


def _verdicts(data: Path) -> _Verdicts:
    reasons = None
    if (data / DROPPED).is_file():
        table = read_table(data / DROPPED, ["id", "reason"])
        reasons = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return _Verdicts(reasons, _ids(data / KEPT), _ids(data / SELECTION))


def _ids(path: Path) -> set[str] | None:
    return set(read_table(path, ["id"])["id"].to_pylist()) if path.is_file() else None


def _add(funnel: Funnel, status: str, name: str, verdicts: _Verdicts) -> None:
    """One candidate, as far as it came."""
    funnel.candidates += 1
    if status != "ok":
        funnel.not_fetched[status] += 1
        return
    funnel.pool += 1
    if verdicts.reasons is None or verdicts.kept is None:
        return
    reason = verdicts.reasons.get(name)
    if reason is not None:
        funnel.dropped[reason] += 1
    funnel.kept += name in verdicts.kept
    if verdicts.selected is not None:
        picked = name in verdicts.selected
        funnel.selected += picked
        funnel.restored += picked and reason is not None
        funnel.not_selected += not picked and name in verdicts.kept


def _broken_sums(funnel: Funnel, verdicts: _Verdicts) -> Iterator[str]:
    """The three equations of a funnel."""
    if funnel.candidates - funnel.not_fetched.total() != funnel.pool:
        yield f"{funnel.candidates:,} candidates less the unfetched are not {funnel.pool:,} images"
    if not verdicts.filtered:
        return
    judged = funnel.dropped.total() + funnel.kept
    if judged != funnel.pool:
        yield f"filter judged {judged:,} of the {funnel.pool:,} images that fetch stored"
    if verdicts.selected is None:
        return
    if funnel.kept - funnel.not_selected + funnel.restored != funnel.selected:
        yield f"{funnel.selected:,} selected images are not those kept less those not selected"


def _disagreements(data: Path, whole: Funnel, verdicts: _Verdicts) -> Iterator[str]:
    """The files' own lengths against what was counted along the ledger."""
    lengths: list[tuple[str, int | None, int]] = [
        (CANDIDATES, _length([data / CANDIDATES]), whole.candidates),
        (POOL, _length((data / POOL).glob("*.parquet")), whole.pool),
    ]
    if verdicts.filtered:
        lengths += [
            (DROPPED, _length([data / DROPPED]), whole.dropped.total()),
            (KEPT, _length([data / KEPT]), whole.kept),
        ]
        if verdicts.selected is not None:
            lengths.append((SELECTION, _length([data / SELECTION]), whole.selected))
    for name, length, counted in lengths:
        if length is not None and length != counted:
            yield f"{data / name} has {plural(length, 'row')}, the ledger accounts for {counted:,}"


def _length(files: Iterable[Path]) -> int | None:
    """Rows of the files that are there; None when there is none."""
    present = [file for file in files if file.is_file()]
    return sum(map(count, present)) if present else None


def _foreign(data: Path, ledger: pa.Table, verdicts: _Verdicts) -> Iterator[str]:
    """Images twice in the pool, both kept and dropped, or judged without being in the ledger."""
    fetched = [
        n
        for n, s in zip(ledger["id"].to_pylist(), ledger["status"].to_pylist(), strict=True)
        if s == "ok"
    ]
    known = set(fetched)
    if len(known) != len(fetched):
        yield f"{data / LEDGER} calls {plural(len(fetched) - len(known), 'image')} 'ok' more than once"
    reasons, kept, selected = (
        verdicts.reasons or {},
        verdicts.kept or set(),
        verdicts.selected or set(),
    )
    if both := kept & reasons.keys():
        yield f"filter both kept and dropped {plural(len(both), 'image')}, such as {min(both)}"
    for name, ids in ((DROPPED, set(reasons)), (KEPT, kept), (SELECTION, selected)):
        if strange := ids - known:
            yield f"{data / name} has {plural(len(strange), 'image')} outside the pool, such as {min(strange)}"
