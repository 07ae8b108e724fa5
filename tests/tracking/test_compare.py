"""MLflow's own pages, opened in a browser: can a person read three experiments beside each other?"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, Page, chromium
from webdistill.core import params, tracking
from webdistill.core.tracking import Record
from webdistill.lineage import flush, store

ROOT = Path(__file__).resolve().parents[2]
KEEP = os.environ.get(
    "WEBDISTILL_SCREENSHOTS"
)  # a folder: the pictures of docs/tracking.md are put there
# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"distill.method": "simkd", "distill.temperature": 2.0},
    {"distill.epochs": 30, "filter.min_score": 0.05},
]


def experiment(number: int, spool: Path) -> None:
    """What the stages of one configuration leave in the spool; the first stages of the second one were cached."""
    changes = CONFIGURATIONS[number]
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    flat = params.load(ROOT / "params.yaml", overrides).flat()
    kept, epochs = 5800 - 900 * (number == 2), int(flat["distill.epochs"])
    top1 = 0.75 + 0.02 * number
    outputs = {
        "search": {"candidates.parquet": "1" * 32},
        "fetch": {"pool": "2" * 32 + ".dir"},
        "filter": {"kept.parquet": f"{kept:032x}"},
        "distill": {"student": f"{number + 10:032x}.dir"},
        "evaluate": {"predictions.parquet": f"{number + 20:032x}"},
    }
    metrics = {
        "search": {"rows": 10_000},
        "fetch": {"ok": 8_900},
        "filter": {"images": 8_900, "kept": kept},
        "distill": {"images": 5_000},
        "evaluate": {
            "top1": top1,
            "teacher_top1": 0.9085,
            "parameters": 175_066,
            "ece": 0.1 + number / 50,
        },
    }
    curve = [
        (epoch, (2 + number / 4) * math.exp(-epoch / 12) + 0.5) for epoch in range(1, epochs + 1)
    ]
    reads = [
        "quickstart/web.parquet",
        *(f"{stage}/{name}" for stage in outputs for name in outputs[stage]),
    ]
    digests = {
        f"{stage}/{name}": digest for stage in outputs for name, digest in outputs[stage].items()
    }
    skipped = {0: 0, 1: 3, 2: 2}[number]
    for at, stage in list(enumerate(outputs))[skipped:]:
        path = reads[at]
        begun = 1_764_000_000.0 + 3600 * number + 60 * at
        tracking.spool(
            Record(
                stage=stage,
                parent_key=f"{number + 10:x}7c1f3".ljust(32, "0"),
                parent_params=flat,
                params={key: value for key, value in flat.items() if key.startswith(stage)},
                inputs={f"data/{path}": digests.get(path, "0" * 32)},
                outputs={f"data/{stage}/{name}": digest for name, digest in outputs[stage].items()},
                metrics=metrics[stage],
                curves={"loss": curve} if stage == "distill" else {},
                track_metrics={"seconds": 30.0 + at, "peak_memory_mib": 900.0},
                started=begun,
                ended=begun + 50,
                status="FINISHED",
            ),
            spool,
        )


@pytest.fixture
def told(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, list[Any]]:
    """-> address of the server, id of MLflow's experiment, the three parent runs"""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "webdistill-demo")
    teacher = Path("data/quickstart/teacher/config.json")  # for the names
    (tmp_path / teacher).parent.mkdir(parents=True)
    shutil.copy(ROOT / teacher, tmp_path / teacher)
    spool = tmp_path / ".work" / "spool"
    for number in range(3):
        experiment(number, spool)
        assert flush.main(["--folder", str(spool), "--wait", "100"]) == 0
    where = store.connect(tmp_path)
    runs = where.client.search_runs([where.experiment], order_by=["attributes.start_time ASC"])
    return server, where.experiment, [run for run in runs if store.PARENT_TAG not in run.data.tags]


def query(**values: Any) -> str:
    return urllib.parse.urlencode({key: json.dumps(value) for key, value in values.items()})


def look(browser: Browser, address: str, sign: str, name: str) -> Page:
    """The page, once `sign` (JavaScript) is true, without MLflow's assistant on its right."""
    page = browser.open(address, height=1000)
    page.wait_for(sign)
    page.evaluate("document.querySelector('[aria-label=Close], [aria-label=close]')?.click()")
    if KEEP:
        time.sleep(5)  # until it has settled
        page.screenshot(Path(KEEP) / name, height=1000)
    return page


TABLE = """[...document.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.innerText.trim()))"""
LINES = """[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data ?? [])
    .map(line => ({name: line.name, x: [...line.x ?? []], y: [...line.y ?? []]}))"""


def test_three_experiments_compared(told: tuple[str, str, list[Any]]) -> None:
    server, number, runs = told
    ids = [run.info.run_id for run in runs]
    where = query(runs=ids, experiments=[number])
    with chromium() as browser:
        page = look(
            browser,
            f"{server}/#/compare-runs?{where}",
            f"{TABLE}.flat().includes('evaluate.top1')",
            "compare.png",
        )
        (Path(KEEP or "/tmp") / "compare.json").write_text(json.dumps(page.evaluate(TABLE)))
        curves = query(plot_metric_keys=["distill.loss"], metric="distill.loss", x_axis="step")
        page = look(
            browser, f"{server}/#/metric?{where}&{curves}", f"{LINES}.length >= 3", "curves.png"
        )
        (Path(KEEP or "/tmp") / "lines.json").write_text(json.dumps(page.evaluate(LINES)))
        look(
            browser,
            f"{server}/#/experiments/{number}/runs/{ids[1]}",
            "document.body.innerText.includes('Changed since')",
            "run.png",
        )
        look(
            browser,
            f"{server}/#/experiments/{number}/runs?compareRunsMode=CHART",
            "document.body.innerText.includes('Model metrics')",
            "charts.png",
        )
        look(
            browser,
            f"{server}/#/experiments/{number}/runs",
            "document.body.innerText.includes('7c1f3')",
            "runs.png",
        )
