"""MLflow's own pages, opened in a browser: can a person read three experiments beside each other?"""

from __future__ import annotations

import json
import math
import os
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.browser import Browser, Page, chromium
from webdistill.harness import params
from webdistill.harness.records import StageRun
from webdistill.harness.spool import write
from webdistill.tracking import flush, store, view

ROOT = Path(__file__).resolve().parents[2]
KEEP = os.environ.get(
    "WEBDISTILL_SCREENSHOTS"
)  # a folder: the pictures of docs/tracking.md are put there
# MLflow 3.17 beside SQLAlchemy 2.1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
]

CONFIGURATIONS: list[dict[str, Any]] = [
    {"distill.method": "kd", "distill.epochs": 60},
    {"distill.method": "simkd", "distill.epochs": 60, "distill.temperature": 2.0},
    {"distill.method": "kd", "distill.epochs": 30, "filter.min_score": 0.05},
]


NAMES = ["kd wrn-16-1", "simkd wrn-16-1", "kd wrn-16-1"]
COLUMNS = ["distill.method", "distill.student", "accuracy", "agreement", "images", "minutes"]
STAGES = ("search", "fetch", "filter", "distill", "evaluate")


def loss(start: float, epoch: int) -> float:
    return start * math.exp(-epoch / 12) + 0.5


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
        "distill": {"images": 5_000, "selection/kept": 4_000},  # MLflow makes a section of each `/`
        "evaluate": {
            "top1": top1,
            "agreement": top1 + 0.01,
            "teacher_top1": 0.9085,
            "parameters": 175_066,
            "ece": 0.1 + number / 50,
        },
    }
    curve = [(epoch, loss(2 + number / 4, epoch)) for epoch in range(1, epochs + 1)]
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
        write(
            StageRun(
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


def requests_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which every request of MLflow's client is added."""
    sent: list[str] = []
    send = requests.Session.send

    def counted(self: Any, request: Any, **options: Any) -> Any:
        sent.append(request.url)
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    return sent


@pytest.fixture
def told(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str, list[Any]]:
    """-> address of the server, id of MLflow's experiment, the three parent runs"""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "webdistill-demo")
    spool, asked = tmp_path / ".work" / "spool", requests_sent(monkeypatch)
    for number, linked in enumerate((0, 3, 2)):
        experiment(number, spool)
        records = len(list(spool.glob("*.json")))
        asked.clear()
        assert flush.main(["--folder", str(spool), "--wait", "100"]) == 0
        assert len(asked) <= 8 + 8 * records + 7 * linked, "few requests a record"
    where = store.connect(tmp_path)
    runs = where.client.search_runs([where.experiment], order_by=["attributes.start_time ASC"])
    return server, where.experiment, [run for run in runs if store.PARENT_TAG not in run.data.tags]


def query(**values: Any) -> str:
    return urllib.parse.urlencode({key: json.dumps(value) for key, value in values.items()})


def look(browser: Browser, address: str, sign: str) -> Page:
    """The page, once `sign` (JavaScript) is true, without MLflow's assistant on its right."""
    page = browser.open(address, height=1000)
    page.wait_for(sign)
    page.evaluate("document.querySelector('button[aria-label=Close]')?.click()")
    return page


def keep(page: Page, name: str, top: int, height: int) -> None:
    """For the documentation, if a folder was named."""
    if KEEP:
        time.sleep(4)  # until it has settled
        page.screenshot(Path(KEEP) / name, top, height)


METRIC = "[...document.querySelectorAll('a[title=\"Plot chart\"]')]"
TABLE = """Object.fromEntries([...document.querySelectorAll('tr')]
    .map(row => [...row.cells].map(cell => cell.innerText.trim())).map(([name, ...rest]) => [name, rest]))"""
LINES = """[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data ?? [])
    .map(line => [line.name, {x: [...line.x ?? []], y: [...line.y ?? []]}])"""
SCROLL = """[...document.querySelectorAll('main, main *')]
    .filter(e => e.clientHeight > 600 && e.scrollHeight > e.clientHeight + 50
        && /auto|scroll/.test(getComputedStyle(e).overflowY)).forEach(e => e.scrollTop = 640)"""


HEADERS = """[...document.querySelectorAll('.ag-header-cell')].filter(e => e.innerText.trim())
    .sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x).map(e => e.innerText.trim())"""
CELLS = "[...document.querySelectorAll('.ag-row .ag-cell')]"
CUT = f"""{CELLS}.flatMap(e => [e, ...e.querySelectorAll('*')])
    .filter(e => getComputedStyle(e).textOverflow === 'ellipsis' && e.scrollWidth > e.clientWidth).length"""


def test_the_list_opens_with_the_columns_that_matter(told: tuple[str, str, list[Any]]) -> None:
    """One row per experiment, no name cut short."""
    server, number, runs = told
    with chromium() as browser:
        rows = "document.querySelectorAll('.ag-center-cols-container .ag-row').length"
        page = look(browser, f"{server}/{view.page(number)}", f"{rows} > 0")
        page.wait_for(f"{HEADERS}.includes('minutes')".replace("\n", " "))
        headers = page.evaluate(HEADERS)
        at = headers.index(COLUMNS[0])
        assert headers[at : at + len(COLUMNS)] == COLUMNS
        assert page.evaluate(rows) == len(runs) == 3
        shown = page.evaluate("document.body.innerText")
        assert all(run.info.run_name in shown for run in runs)
        assert page.evaluate(CUT) == 0
        keep(page, "list.png", 0, 420)


def test_charts_begin_with_accuracy(told: tuple[str, str, list[Any]]) -> None:
    """Also before the sections that MLflow makes of names with a `/`."""
    server, number, _ = told
    with chromium() as browser:
        address = f"{server}/{view.page(number)}&compareRunsMode=CHART"
        page = look(browser, address, "document.body.innerText.includes('distill.selection')")
        shown = [line.strip() for line in page.evaluate("document.body.innerText").splitlines()]
        order = [shown.index(name) for name in (*COLUMNS[2:4], COLUMNS[5], "distill.selection")]
        assert order == sorted(order)


def test_three_experiments_compared(told: tuple[str, str, list[Any]]) -> None:
    """Readable names, the parameters that differ and no others, final metrics of all stages, three curves."""
    server, number, runs = told
    where = query(runs=[run.info.run_id for run in runs], experiments=[number])
    with chromium() as browser:
        page = look(browser, f"{server}/#/compare-runs?{where}", f"{METRIC}.length > 0")
        named = [f"{key}7c1f3 · {rest}" for key, rest in zip("abc", NAMES, strict=True)]
        table = page.evaluate(TABLE)
        assert table["Run Name:"] == named
        assert table["distill.batch_size"] == ["32", "32", "32"]
        metrics = page.evaluate(f"{METRIC}.map(a => a.innerText.trim())")
        assert metrics[:2] == ["accuracy", "agreement"]
        assert {name.split(".")[0] for name in metrics if "." in name and "/" not in name} == {
            *STAGES
        }

        for switch in ("Parameters", "Metrics"):
            page.evaluate(
                f"document.querySelector('[aria-label^=\"{switch} - Show diff\"]').click()"
            )
        page.wait_for(f"{METRIC}.length < {len(metrics)}")
        table = page.evaluate(TABLE)
        differing = {
            "distill.epochs": ["60", "60", "30"],
            "distill.method": ["kd", "simkd", "kd"],
            "distill.temperature": ["null", "2.0", "null"],
            "filter.min_score": ["0.02", "0.02", "0.05"],
        }
        assert {
            key: table[key] for key in table if "." in key and "webdistill" not in key
        } == differing
        metrics = page.evaluate(f"{METRIC}.map(a => a.innerText.trim())")
        model = ["accuracy", "agreement", "distill.loss"]
        model += ["evaluate.agreement", "evaluate.ece", "evaluate.top1", "filter.kept"]
        assert [name for name in metrics if not name.startswith(store.COST)] == model
        shown = page.evaluate("document.body.innerText").split()
        for values in (["0.75", "0.77", "0.79"], ["5800", "5800", "4900"]):
            at = shown.index(values[0])
            assert shown[at : at + 3] == values
        page.evaluate(SCROLL)
        keep(page, "compare.png", 0, 1000)

        curve = f"{METRIC}.find(a => a.innerText.trim() === 'distill.loss').href"
        page = look(browser, page.evaluate(curve), f"{LINES}.length >= 3")
        lines = dict(page.evaluate(LINES))
        assert list(lines) == named
        for line, (epochs, start) in zip(
            lines.values(), ((60, 2), (60, 2.25), (30, 2.5)), strict=True
        ):
            assert line["x"] == list(range(1, epochs + 1))
            assert line["y"] == pytest.approx([loss(start, epoch) for epoch in line["x"]])
        keep(page, "curves.png", 0, 500)

        second = f"{server}/#/experiments/{number}/runs/{runs[1].info.run_id}"
        page = look(browser, second, "document.body.innerText.includes('Changed since')")
        for text in ("77.0% top-1", "filter (cached)", "distill.method kd → simkd"):
            page.wait_for(f"document.body.innerText.includes({json.dumps(text)})")
        links = page.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
        assert any(link.endswith(f"/runs/{runs[0].info.run_id}") for link in links)
