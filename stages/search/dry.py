"""What a search would find, as a table of classes and providers; nothing is written and no page kept."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from stages.search.asking import Asking
from stages.search.candidates import collect
from stages.search.found import Ask
from stages.search.keywords import Keywords
from stages.search.local import open_local
from stages.search.providers import Provider, chosen
from webdistill.harness.stage import Stage

NO_CLASS = "(no class)"


def overview(stage: Stage) -> list[str]:
    """The lines to show. Local sources are read whole; providers are asked one page per word, for its total."""
    settings = stage.params
    keywords = Keywords(stage.task.classes, settings.keywords)
    path = stage.input(settings.local)
    local = open_local(path, settings.local, settings.columns, keywords)
    found = collect(local.rows(), keywords, settings.negative)
    counts = count_local(found.table)
    providers = chosen(settings)
    for provider in providers:
        with contextlib.closing(Asking(provider, None)) as ask:
            counts[provider.name] = count_remote(provider, ask, keywords)
    lines = table(counts, stage.task.classes)
    for name, lost in local.lost().items():
        lines += ["", *lost.told(name)]
    if providers:
        asked = " and ".join(one.name for one in providers)
        lines += [
            "",
            f"{asked}: as their first page says, at most per_class; duplicates not deducted",
        ]
    return lines


def count_local(candidates: pa.Table) -> dict[str, Counter[str]]:
    """provider -> query -> candidates."""
    counts: dict[str, Counter[str]] = {}
    names, queries = (candidates.column(name).to_pylist() for name in ("provider", "query"))
    for name, query in zip(names, queries, strict=True):
        counts.setdefault(name, Counter())[query] += 1
    return counts


def count_remote(provider: Provider, ask: Ask, keywords: Keywords) -> Counter[str]:
    """query -> results that the provider says it has for the class's words together, at most per_class."""
    return Counter(
        {
            name: min(provider.per_class, sum(provider.total(ask, word) for word in words))
            for name, words in keywords.words.items()
        }
    )


def table(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> list[str]:
    """The lines of the table: classes down, providers across, with sums."""
    providers = list(counts)
    rows = {name: [counts[p].get(name, 0) for p in providers] for name in classes}
    others = [sum(n for query, n in counts[p].items() if query not in rows) for p in providers]
    if any(others):
        rows[NO_CLASS] = others
    rows["total"] = [sum(counts[p].values()) for p in providers]
    heads = ["class", *providers, "total"]
    lines = [heads, *([name, *(f"{n:,}" for n in (*row, sum(row)))] for name, row in rows.items())]
    widths = [max(len(cells[n]) for cells in lines) for n in range(len(heads))]
    return [_line(cells, widths) for cells in lines]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])
