"""How many pictures a project will have, by the last stage that has run, or by what it will search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

APIS = ("openverse", "wikimedia", "inaturalist")


@dataclass(frozen=True)
class Counted:
    """`pool`: pictures there are or will be; `selected`: of them for the training; `source`: who says so."""

    pool: int
    selected: int
    source: str
    exact: bool = False  # else at most
    fetched: bool = False  # the pool is there


def counted(raw: Mapping[str, Any], pool: int | None = None) -> Counted:
    """`raw`: params.yaml as plain data; `pool`: what the user says. Paths are those of the current folder."""
    chosen, fetched = Path("data/select/selection.parquet"), Path("data/fetch/pool")
    if pool is not None:
        return Counted(pool, budgeted(raw, pool), "--pictures")
    inside = rows(fetched)
    if chosen.is_file() and inside:
        return Counted(inside, rows(chosen), "data/select", exact=True, fetched=True)
    kept = Path("data/filter/kept.parquet")
    for place, path in (("data/filter", kept), ("data/fetch", fetched)):
        if inside and path.exists():
            return Counted(inside, budgeted(raw, rows(path)), place, fetched=True)
    found = rows(Path("data/search/candidates.parquet"))
    if found:
        return Counted(found, budgeted(raw, found), "data/search")
    found, source = searched(raw["search"], raw["task"]["classes"])
    return Counted(found, budgeted(raw, found), source)


def budgeted(raw: Mapping[str, Any], pictures: int) -> int:
    """What `select` takes of them, at most."""
    rule, budget = raw["select"]["rule"], raw["select"]["budget"]
    if rule == "all":
        return pictures
    return min(budget, pictures) if isinstance(budget, int) else max(round(budget * pictures), 1)


def rows(path: Path) -> int:
    """Of a Parquet file, or of a folder of them; 0 where there is none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] * path.is_file()
    return sum(pq.read_metadata(file).num_rows for file in files)


def searched(search: Mapping[str, Any], classes: list[str]) -> tuple[int, str]:
    """-> candidates of the section `search`, at most, and where they come from."""
    local, count, sources = Path(search["local"]), 0, []
    if found := _local(local, search, classes) if local.exists() else 0:
        count, sources = found, [search["local"]]
    for name in APIS:
        if search[name]["enabled"]:
            count += search[name]["per_class"] * len(classes)
            sources.append(name)
    return count, " and ".join(sources) or str(search["local"])


def _local(path: Path, search: Mapping[str, Any], classes: list[str]) -> int:
    from stages.search.keywords import Keywords
    from stages.search.local import open_local

    keywords = Keywords(classes, search["keywords"])
    parts = open_local(path, path.as_posix(), search["columns"], keywords).parts
    parquet = [part for part in parts if part.path.suffix.lower() == ".parquet"]
    others = [part for part in parts if part not in parquet]
    return sum(rows(part.path) for part in parquet) + sum(1 for p in others for _ in p.rows())
