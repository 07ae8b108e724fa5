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

from tests.browser import Page, chromium
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
                parent_key=f"{number + 10:02x}c1f3".ljust(32, "0"),
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


def picture(page: Page, name: str) -> None:
    if KEEP:
        page.screenshot(Path(KEEP) / name, height=900)


def test_three_experiments_compared(told: tuple[str, str, list[Any]]) -> None:
    server, number, runs = told
    ids = [run.info.run_id for run in runs]
    with chromium() as browser:

        def look(address: str, sign: str, name: str) -> Page:
            page = browser.open(f"{server}/#/{address}")
            try:
                page.wait_for(sign)
            except TimeoutError:
                print(page.evaluate("document.body.innerText"))
                page.screenshot(Path(KEEP) / ("bad" + name), height=900)
                return page
            time.sleep(3)
            picture(page, name)
            return page

        page = look(
            f"compare-runs?{query(runs=ids, experiments=[number])}",
            "document.body.innerText.includes('evaluate.top1')",
            "compare.png",
        )
        text = page.evaluate("document.body.innerText")
        print(text)
        curves = query(
            runs=ids, experiments=[number], plot_metric_keys=["distill.loss"], metric="distill.loss"
        )
        look(
            f"metric?{curves}",
            "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length == 3",
            "curves.png",
        )
        look(
            f"experiments/{number}/runs/{ids[1]}",
            "document.body.innerText.includes('Changed since')",
            "run.png",
        )
        look(
            f"experiments/{number}/runs?compareRunsMode=CHART",
            "document.body.innerText.includes('distill.loss')",
            "charts.png",
        )
        look(f"experiments/{number}/runs", "document.body.innerText.includes('c1f3')", "runs.png")
