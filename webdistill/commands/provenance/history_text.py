"""Provenance as text: a headline with its end, then stage by stage what is known."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from webdistill.commands.provenance.history import Match, Provenance
from webdistill.commands.provenance.rows import Row
from webdistill.commands.provenance.text import inert, labelled

SHOWN = 10  # candidates, copies or matches that are named one by one


def tell(found: Provenance) -> str:
    """The whole history, one stage after the other."""
    lines = [inert(f"{found.id or 'no image'}: {end(found)}"), ""]
    lines += _candidates(found)
    for label, row, told, unknown in (
        ("pool", found.pool, _pool, "has no such image"),
        ("embed", found.embed, _embed, "not embedded"),
        ("filter", found.filter, _filter, "knows no such image"),
        ("score", found.score, _score, "not scored"),
        ("select", found.select, _select, "not selected"),
        ("prototypes", found.prototypes, _prototypes, "not assigned"),
        ("distill", found.distill, _distill, "not trained on"),
    ):
        missing = "has not run here" if row is None else unknown
        lines += labelled(label, told(row) if row else missing)
    return "\n".join(lines)


def list_matches(text: str, found: Sequence[Match]) -> str:
    """What an ambiguous name may mean."""
    lines = labelled("", f"{text} may be any of {len(found):,} images:")
    lines[0] = lines[0].strip()
    for match in found[:SHOWN]:
        row = match.rows[0][1] if match.rows else {}
        more = f" and {len(match.rows) - 1} more" if len(match.rows) > 1 else ""
        lines += [f"  {match.id}", *labelled("", f"{row.get('url', '')}{more}".strip())]
    if len(found) > SHOWN:
        lines.append(f"  ... and {len(found) - SHOWN:,} more; give more digits")
    return "\n".join(lines)


def end(found: Provenance) -> str:
    """How far the image came, in a few words."""
    if not found.id:
        statuses = sorted({row["status"] for row in found.fetch or []})
        return f"not fetched: {', '.join(statuses)}" if statuses else "fetch has not run yet"
    if found.select:
        return "selected for training"
    if found.filter and not found.filter["kept"]:
        return f"dropped by the filter: {found.filter['reason']}"
    if found.filter:
        return "kept by the filter" + ("" if found.select is None else ", not selected")
    if found.pool == {}:
        statuses = sorted({row["status"] for row in found.fetch or []})
        return f"not in the pool: {', '.join(statuses)}" if statuses else "not in the pool"
    return "in the pool"


def _candidates(found: Provenance) -> list[str]:
    """Candidate and ledger of each address, side by side where the two files go together."""
    search, fetch = found.search, found.fetch
    lines: list[str] = []
    if search is None:
        lines += labelled("search", "has not run here")
    if fetch is None:
        lines += labelled("fetch", "has not run here")
    count = max(len(search or []), len(fetch or []))
    if count > 1:
        lines += labelled("candidates", f"{count:,} with the same pixels")
    if search is not None and fetch is not None and len(search) != len(fetch):
        text = "has run again since fetch; the outputs of fetch belong to an earlier list"
        lines += labelled("search", text)
        search = []
    for at in range(min(count, SHOWN)):
        listed = search[at] if search else {}
        became = fetch[at] if fetch else {}
        lines += [""] if at else []
        known = {name: value for name, value in became.items() if value not in ("", None)}
        lines += _candidate({**listed, **known})
        lines += _became(became) if became else []
    if count > SHOWN:
        lines.append(f"... and {count - SHOWN:,} more; --json lists all")
    return [*lines, ""]


def _candidate(row: Row) -> list[str]:
    licence = " ".join(filter(None, (row.get("licence"), row.get("licence_url"))))
    lines: list[str] = []
    for label, value in (
        ("url", row.get("url") or "none"),
        ("from", _origin(row)),
        ("query", row.get("query")),
        ("caption", row.get("caption")),
        ("licence", licence or "not stated"),
        ("creator", row.get("creator")),
        ("attribution", row.get("attribution")),
        ("page", row.get("landing_page")),
        ("copy of", row.get("origin")),
        ("opt-out", row.get("opt_out")),
    ):
        lines += labelled(label, value) if value else []
    return lines


def _origin(row: Row) -> str:
    """Which provider, and where the bytes lie unless they are on the web."""
    where = row.get("file") or ""
    if row.get("source") in ("embedded", "tar"):
        where += f" row {row['row']}"
    parts = (row.get("provider"), row.get("source"), where.strip())
    return ", ".join(part for part in parts if part)


def _became(row: Row) -> list[str]:
    """The ledger's row."""
    facts = [row["status"]]
    if row.get("source") == "http" and (host := _host(row["url"])):
        facts.append(f"host {host}")
    if row["http_status"]:
        facts.append(f"HTTP {row['http_status']}")
    if row.get("robots"):
        facts.append(f"robots.txt: {row['robots']}")
    if row["bytes"]:
        facts.append(f"{row['bytes']:,} bytes")
    lines = labelled("fetch", ", ".join(facts))
    lines += labelled("sha256", row["sha256"]) if row["sha256"] else []
    return lines + (labelled("detail", row["detail"]) if row["detail"] else [])


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _pool(row: Row) -> str:
    return f"{row['width']} x {row['height']} px, {row['bytes']:,} bytes in {row['shard']}"


def _embed(row: Row) -> str:
    query = f" for '{row['query']}'" if row["query"] else ""
    told = (
        f"score {_figure(row['score'])}{query}, margin {_figure(row['margin'])}; "
        f"looks most like '{row['best_class']}'"
    )
    unsafe = row.get("unsafe")  # null where embed.unsafe_texts names none
    return told if unsafe is None else f"{told}; unsafe {_figure(unsafe)}"


def _filter(row: Row) -> str:
    if row["kept"]:
        copies = row["copies"]
        if not copies:
            return "kept"
        named = ", ".join(copies[:SHOWN]) + (", ..." if len(copies) > SHOWN else "")
        return f"kept; dropped as near-duplicates of it: {len(copies):,} ({named})"
    figures = f"value {_figure(row['value'])}, threshold {_figure(row['threshold'])}"
    told = f"dropped: {row['reason']} ({row.get('detail') or figures})"
    return told + (f", other image {row['other']}" if row["other"] else "")


def _score(row: Row) -> str:
    return (
        f"teacher: '{row['class']}' {row['confidence']:.2%}, "
        f"then '{row['second_class']}' {row['second_confidence']:.2%}"
    )


def _select(row: Row) -> str:
    return (
        f"weight {_figure(row['weight'])}, rank {row['rank']:,} (from 0) in '{row['class']}', "
        f"confidence {row['confidence']:.2%}"
    )


def _prototypes(row: Row) -> str:
    return f"number {row['prototype']}, distance {_figure(row['distance'])}"


def _distill(row: Row) -> str:
    told = f"kept in {row['times_kept']:,} of {row['choices']:,} choices of the method"
    return told + (f": those before epoch {_runs(row['epochs'])}" if row["epochs"] else "")


def _runs(epochs: Sequence[int]) -> str:
    """[1, 2, 3, 5] -> "1-3, 5"."""
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][-1] + 1:
            runs[-1][1:] = [epoch]
        else:
            runs.append([epoch])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
