"""What a person reads first on the page of an experiment: the figures, what changed, what was not run again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from webdistill.core.tracking import Record
from webdistill.lineage import links
from webdistill.lineage import store as stores
from webdistill.lineage.store import PARENT_TAG, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND_TAG = "webdistill.kind"
SHOWN = 12  # changed parameters
LENGTH = 60  # letters of a value


def kind(record: Record) -> str:
    """What the parent run stands for: by this tag the runs page can be filtered."""
    if record.key or not (record.stage or record.lock):
        return "comparison"
    return "cell" if "cell" in record.tags else "experiment"


def note(store: Store, parent: Run) -> str:
    """Markdown, from what the store has of the experiment and its children."""
    lines = [*_figures(parent.data.metrics), *_changed(store, parent)]
    children = stores.find(store, {PARENT_TAG: parent.info.run_id})
    cached = [name for run in children if (name := run.data.tags.get(links.CACHED_TAG))]
    if cached:
        lines.append(f"Not run again, outputs as before: {', '.join(cached)}.")
    return "\n\n".join(lines)


def _figures(metrics: Mapping[str, float]) -> list[str]:
    lines = []
    if "evaluate.top1" in metrics:
        line = f"**{metrics['evaluate.top1']:.1%}** top-1"
        if "evaluate.teacher_top1" in metrics:
            line += f", teacher {metrics['evaluate.teacher_top1']:.1%}"
        if "evaluate.parameters" in metrics:
            line += f"; {metrics['evaluate.parameters']:,.0f} parameters"
        lines.append(line + ".")
    counts = {
        "found": "search.rows", "fetched": "fetch.ok", "kept by the filter": "filter.kept",
        "trained on": "distill.images",
    }  # fmt: skip
    known = [f"{metrics[key]:,.0f} {word}" for word, key in counts.items() if key in metrics]
    if known:
        lines.append(f"Images: {', '.join(known)}.")
    return lines


def _changed(store: Store, parent: Run) -> list[str]:
    """What differs from the experiment before."""
    if parent.data.tags.get(KIND_TAG) != "experiment":
        return []
    before = store.client.search_runs(
        [store.experiment],
        f"tags.`{KIND_TAG}` = 'experiment' and attributes.start_time < {parent.info.start_time}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not before:
        return []
    (other,) = before
    where = f"[{other.info.run_name}]({links.address(store, other.info.run_id)})"
    old, new = other.data.params, parent.data.params
    names = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if not names:
        return [f"The parameters of {where}, with other code."]
    told = [f"`{key}` {_value(old, key)} → {_value(new, key)}" for key in names[:SHOWN]]
    if len(names) > SHOWN:
        told.append(f"{len(names) - SHOWN} more")
    return [f"Changed since {where}: {'; '.join(told)}."]


def _value(params: Mapping[str, str], key: str) -> str:
    text = re.sub(r"\s+", " ", params.get(key, "none"))
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
