"""Whether images are gone: file by file, before filter and from filter onward, the part that a takedown clears."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from webdistill.commands.provenance.artefacts import Artefact, artefacts, not_here
from webdistill.commands.provenance.history import (
    CANDIDATES,
    DROPPED,
    KEPT,
    LEDGER,
    POOL,
    SELECTION,
)
from webdistill.commands.provenance.rows import Row, equal, find, take
from webdistill.commands.provenance.target import KEYS, Target
from webdistill.commands.provenance.traces import Needles, Search, stored_digests
from webdistill.core.errors import UserError
from webdistill.core.files import digest
from webdistill.harness.wording import plural

SHOWS = (
    KEPT,
    DROPPED,
    SELECTION,
)  # decide which images report and pool page show; these name their sha256
# They show no image that was dropped for these.
HIDDEN = frozenset({"takedown", "opt_out", "unsafe", "punsafe", "nsfw"})
WAITING = ".work/spool/*/*"  # nothing beside them says which images they were made from
TESTED = "evaluate/predictions.parquet"  # names test images only
Verdict = Literal["absent", "PRESENT", "dropped", "test set", "unproven"]


@dataclass(frozen=True)
class Finding:
    """One file. `dropped`: filter's note that it took them out; `unproven`: a search cannot tell, see `detail`.

    `test set`: not these images, but test images with the same pixels.
    """

    file: str
    later: bool  # from filter onward
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Proof:
    """`images`, `addresses`: how many were looked for; `missing`: stages from filter onward without an output."""

    images: int
    addresses: int
    findings: list[Finding]
    missing: list[str]

    @property
    def proven(self) -> bool:
        """Absent from filter onward."""
        harmless = ("absent", "dropped", "test set")
        return all(not f.later or f.verdict in harmless for f in self.findings)

    @property
    def proven_everywhere(self) -> bool:
        """Not even named by filter, or by what was there before it."""
        return all(finding.verdict == "absent" for finding in self.findings)


def prove(data: Path, target: Target) -> Proof:
    """Search every file. Raises UserError when filter has not run: nothing could be said then."""
    if not (data / KEPT).is_file():
        raise UserError(
            f"{data / KEPT} does not exist, so nothing can be proven; run `dvc repro filter` or `dvc pull` first"
        )
    needles, addresses = look_up(data, target)
    search = Search(needles)
    reasons = _reasons(data / DROPPED, needles)
    findings = [_look(search, one, data, reasons) for one in artefacts(data)]
    return Proof(len(needles.ids), addresses, findings, not_here(data))


def look_up(data: Path, target: Target) -> tuple[Needles, int]:
    """Everything by which the target's images are known, and how many addresses of candidates are among it.

    Any candidate with the same pixels counts, whatever its address: it is the same image.
    """
    wanted = ["id", "sha256", "url", "origin"]
    rows: list[Row] = []
    for path in (data / LEDGER, data / CANDIDATES):
        if path.is_file():
            rows += [row for _, row in find(path, KEYS, target.hit, wanted)]
    ids = _filled(rows, "id") | target.ids
    if ids and (data / LEDGER).is_file():
        rows += [row for _, row in find(data / LEDGER, ["id"], equal("id", ids), wanted)]
    pool = sorted((data / POOL).glob("*.parquet"))
    stored = frozenset(stored_digests(pool, ids)) if ids else frozenset()
    urls = _filled(rows, "url") | _filled(rows, "origin")
    sha256s = _filled(rows, "sha256") | target.sha256s
    return Needles(ids, sha256s, urls | target.urls, stored), len(urls)


def _filled(rows: list[Row], column: str) -> frozenset[str]:
    return frozenset(row[column] for row in rows if row.get(column))


def _look(search: Search, one: Artefact, data: Path, reasons: Counter[str]) -> Finding:
    try:
        if one.path == data / DROPPED:
            verdict, detail = _judge_dropped(search, one.path, reasons)
        elif one.path.suffix == ".parquet":
            verdict, detail = _judge_table(search, one.path)
        else:
            verdict, detail = _judge_bytes(search, one.path)
        if one.path.suffix == ".html" and verdict == "absent":
            verdict, detail = _judge_page(one.path, data, reasons)
        elif one.path.suffix == ".png" and one.path.match(WAITING) and verdict == "absent":
            verdict, detail = "unproven", "a picture on its way to MLflow; send or delete it"
    except (UserError, OSError) as error:
        verdict, detail = "unproven", str(error)
    return Finding(one.label, one.later, verdict, detail)


def _judge_bytes(search: Search, path: Path) -> tuple[Verdict, str]:
    places = search.places(path)
    return ("PRESENT", plural(places, "place")) if places else ("absent", "")


def _judge_table(search: Search, path: Path) -> tuple[Verdict, str]:
    if rows := len(search.rows(path)):
        verdict: Verdict = "test set" if path.match(TESTED) else "PRESENT"
        return verdict, plural(rows, "row")
    places = search.header(path)
    return ("PRESENT", f"{plural(places, 'place')} in its header") if places else ("absent", "")


def _judge_dropped(search: Search, path: Path, reasons: Counter[str]) -> tuple[Verdict, str]:
    """Filter's list of what it took out names the image, and rightly so: unless as one that it kept instead."""
    others = take(path, search.rows(path, but=("id",)).tolist()).values()
    if not reasons or any(row["reason"] != "leak" for row in others):  # there it is a test image
        return _judge_table(search, path)
    return "dropped", ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))


def _reasons(dropped: Path, needles: Needles) -> Counter[str]:
    """Why filter dropped the images, if it did."""
    if not dropped.is_file():
        return Counter()
    rows = find(dropped, ["id"], equal("id", needles.ids), ["reason"])
    return Counter(row["reason"] for _, row in rows)


def _judge_page(path: Path, data: Path, reasons: Counter[str]) -> tuple[Verdict, str]:
    """Report and pool page shrink large pictures, which no search by bytes finds; but they name what they show."""
    page = path.read_bytes()
    for name in SHOWS:
        source = data / name
        if source.is_file() and digest(source).encode() not in page:
            fix = (
                "run `dvc repro report`"
                if path.is_relative_to(data)
                else "make it again or delete it"
            )
            return "unproven", f"made from another {source}; {fix}"
    if shown := ", ".join(sorted(reasons.keys() - HIDDEN)):
        return "unproven", f"may show pictures of images that were dropped as {shown}"
    return "absent", ""
