"""What a person reads first on the page of an experiment: the figures, what changed, what was not run again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from webdistill.harness.params import STAGES
from webdistill.harness.records import (
    ComparisonCell,
    ComparisonTable,
    Record,
    StageRun,
    Workspace,
)
from webdistill.tracking import links
from webdistill.tracking import store as stores
from webdistill.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

    from webdistill.tracking.links import Source

KIND_TAG = "webdistill.kind"
HEADLINE = {
    "evaluate.top1": "accuracy",  # the first in MLflow's alphabetical order
    "evaluate.agreement": "agreement",
    "distill.images": "images",
}
SECONDS = f"{stores.COST}seconds"
SHOWN = 12  # changed parameters
LENGTH = 60  # letters of a value


def kind(record: Record) -> str:
    """What the parent run stands for: by this tag the runs page can be filtered."""
    if isinstance(record, ComparisonTable | ComparisonCell):
        return "comparison"
    return "cell" if "cell" in record.tags else "experiment"


def headline(figures: Sequence[Metric]) -> list[Metric]:
    """The experiment's own metrics: its columns in the list, and the first rows of a comparison."""
    from mlflow.entities import Metric

    return [Metric(HEADLINE[m.key], m.value, m.timestamp, 0) for m in figures if m.key in HEADLINE]


def minutes(record: StageRun, sources: Sequence[Source]) -> list[Metric]:
    """What the stage and all upstream took when they ran; nothing if one is not known."""
    from mlflow.entities import Metric

    makers = [source.maker for source in sources]
    took = [record.track_metrics.get("seconds")]
    took += [None if run is None else run.data.metrics.get(SECONDS) for run in makers]
    known = [seconds for seconds in took if seconds is not None]
    if len(known) < len(took):
        return []
    return [Metric("minutes", round(sum(known) / 60, 2), stores.milliseconds(record.ended), 0)]


def told(record: Record, metrics: Sequence[Metric], parent: Run) -> str:
    """Markdown for the page of a stage, a cell or a table."""
    shown = {m.key: m.value for m in metrics if m.value and not m.key.startswith(stores.COST)}
    text = ", ".join(f"{key} {value:,.6g}" for key, value in list(shown.items())[:SHOWN])
    more = f" and {len(shown) - SHOWN} more metrics" if len(shown) > SHOWN else ""
    went = " failed" if isinstance(record, StageRun) and record.status == "FAILED" else ""
    seconds = max(record.ended - record.started, 0)
    where = f"[{parent.info.run_name}]({links.address(parent)})"
    return f"`{record.subject}` of {where}{went}, {seconds:,.0f} s. {text}{more}".strip()


def note(
    store: Store,
    parent: Run,
    record: Workspace,
    metrics: Mapping[str, float],
    children: Sequence[Run],
) -> str:
    """Markdown for the page of an experiment with these metrics and runs below it."""
    lines = [*_figures(metrics), *_changed(store, parent, record)]
    skipped = {run.data.tags.get(links.CACHED_TAG) for run in children}
    cached = [stage for stage in STAGES if stage in skipped]
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


def _changed(store: Store, parent: Run, record: Workspace) -> list[str]:
    """What differs from the experiment before."""
    if parent.data.tags.get(KIND_TAG) != "experiment":
        return []
    other = _before(store, parent)
    if other is None:
        return []
    where = f"[{other.info.run_name}]({links.address(other)})"
    old, new = other.data.params, stores.texts(record.parent_params) | parent.data.params
    names = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if not names:
        return [f"The parameters of {where}, with other code."]
    told = [f"`{key}` {_value(old, key)} → {_value(new, key)}" for key in names[:SHOWN]]
    if len(names) > SHOWN:
        told.append(f"{len(names) - SHOWN} more")
    return [f"Changed since {where}: {'; '.join(told)}."]


def _before(store: Store, parent: Run) -> Run | None:
    if parent.info.run_id not in store.before:
        found = store.client.search_runs(
            [store.experiment],
            f"tags.`{KIND_TAG}` = 'experiment' and attributes.start_time < {parent.info.start_time}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        store.before[parent.info.run_id] = found[0] if found else None
    return store.before[parent.info.run_id]


def _value(params: Mapping[str, str], key: str) -> str:
    text = re.sub(r"\s+", " ", params.get(key, "none"))
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
