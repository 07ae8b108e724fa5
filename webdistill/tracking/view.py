"""How MLflow's list of runs opens: one row per experiment, with the columns and charts that matter.

MLflow has a fixed set of columns of its own and keeps a person's choice in the browser. What it can share is a *view*,
stored as a tag of the experiment and named in the address of the page. The page that compares ticked runs has no part
in it: its plot opens with the metric that was stored first, and no address or tag says otherwise.
"""

from __future__ import annotations

import json

NAME = "webdistill"
TAG = f"mlflow.sharedViewState.{NAME}"
FIRST_TAG = "mlflow.experiment.primaryMetric.name"  # of the chart view
COLUMNS = {  # in this order, with their width in px
    "attributes.`Run Name`": 250,
    "params.`distill.method`": 110,
    "params.`distill.student`": 115,
    "metrics.`accuracy`": 90,
    "metrics.`agreement`": 95,
    "metrics.`images`": 80,
    "metrics.`minutes`": 85,
    "runDateAndNestInfo": 130,  # created
    "duration": 80,
}
FIRST = "accuracy"
CHARTS = [  # of the chart view, before the sections that MLflow makes of all other metrics
    {
        "type": "BAR",
        "uuid": f"{NAME}-{metric}",
        "metricSectionId": NAME,
        "metricKey": metric,
        "displayName": metric,
        "runsCountToCompare": 100,
        "isGenerated": False,
        "deleted": False,
    }
    for metric in (FIRST, "agreement", "minutes")
]
SECTION = {"uuid": NAME, "name": "Students", "display": True, "isReordered": True, "deleted": False}
STATE = json.dumps(
    {
        "selectedColumns": [name for name in COLUMNS if name[:7] in ("params.", "metrics")],
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "searchFilter": "tags.`webdistill.kind` = 'experiment'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "compareRunCharts": CHARTS,
        "compareRunSections": [SECTION],
        "isAccordionReordered": True,  # else sections are in alphabetical order
    }
)


def page(experiment: str) -> str:
    """The list of runs of an experiment, within MLflow's pages."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={NAME}"
