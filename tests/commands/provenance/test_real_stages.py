"""The real stages on a few dozen images: what they wrote is found, counted and, once taken down, proven gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from webdistill.__main__ import main
from webdistill.harness import params
from webdistill.harness.stage import Stage

ROOT = Path(__file__).parents[3]
ROWS = 48
SET = [
    "task.threads=1", "filter.min_score=-1.0", "filter.min_margin=-2.0", "select.budget=12",
    "select.allow_empty_classes=true", "prototypes.count=2", "prototypes.dims=4", "distill.batch_size=4",
]  # fmt: skip
CHAIN = ("search", "fetch", "embed", "filter", "score", "select", "prototypes")


def run(*names: str) -> None:
    """Stages in the current folder, in this process."""
    import importlib

    settings = params.load(Path("params.yaml"), SET)
    for name in names:
        stage = Stage(name, settings, None)
        stage.work.mkdir(parents=True, exist_ok=True)
        importlib.import_module(f"stages.{name}.__main__").main(stage)
        stage.publish()


def cut(name: str, rows: int) -> None:
    target = Path("data/quickstart") / name
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pq.read_table(ROOT / target).slice(0, rows), target)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The quickstart's first rows, from search to prototypes."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("params.yaml", "takedown.txt"):
            shutil.copy(ROOT / name, name)
        for folder in ("clip", "teacher"):
            shutil.copytree(ROOT / "data/quickstart" / folder, Path("data/quickstart") / folder)
        cut("web.parquet", ROWS)
        cut("test/images.parquet", 8)
        run(*CHAIN)
        yield root


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], project: Path) -> Callable[..., tuple[int, Any]]:
    """-> exit code, the JSON document"""

    def answer(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return answer


def ids(name: str) -> list[str]:
    found: list[str] = pq.read_table(f"data/{name}.parquet")["id"].to_pylist()
    return found


def test_the_life_of_every_candidate_agrees_with_the_stages_files(ask: Any) -> None:
    ledger = pq.read_table("data/fetch/ledger.parquet").to_pylist()
    candidates = pq.read_table("data/search/candidates.parquet").to_pylist()
    scores = {row["id"]: row for row in pq.read_table("data/embed/scores.parquet").to_pylist()}
    chosen = {row["id"]: row for row in pq.read_table("data/select/selection.parquet").to_pylist()}
    kept = ids("filter/kept")
    for candidate, row in list(zip(candidates, ledger, strict=True))[::4]:
        code, life = ask("why", row["url"])
        assert code == 0
        assert row in life["fetch"]
        assert candidate in life["search"]
        assert life["id"] == row["id"]
        if row["id"] in scores:
            assert life["embed"]["score"] == scores[row["id"]]["score"]
            assert life["filter"]["kept"] == (row["id"] in kept)
            assert (life["pool"]["width"], life["pool"]["height"]) > (0, 0)
        if row["id"] in chosen:
            assert life["select"]["rank"] == chosen[row["id"]]["rank"]
            assert life["score"]["teacher_class"] == life["select"]["teacher_class"]
            assert life["score"]["confidence"] == pytest.approx(
                life["select"]["confidence"], abs=1e-4
            )
            assert life["prototypes"]["prototype"] in (0, 1)
        assert life["distill"] is None


@pytest.mark.parametrize("by", ["query", "host", "provider"])
def test_every_candidate_is_accounted_for(ask: Any, by: str) -> None:
    code, found = ask("lost", "--by", by)
    assert code == 0
    assert found["faults"] == []
    assert found["whole"]["candidates"] == ROWS
    assert found["whole"]["selected"] == len(ids("select/selection")) == 12
    assert sum(group["selected"] for group in found["groups"].values()) == 12


@pytest.mark.parametrize(
    "named_by",
    ["url", *(pytest.param(name, marks=pytest.mark.slow) for name in ("id", "sha256", "host"))],
)
def test_a_takedown_is_proven_once_filter_and_what_follows_have_run_again(
    ask: Any, named_by: str
) -> None:
    """Promise K4, without search, fetch or embed."""
    name = ids("select/selection")[0]
    ledger = pq.read_table("data/fetch/ledger.parquet")
    row = next(row for row in ledger.to_pylist() if row["id"] == name)
    word = {"host": "host:" + row["url"].split("/")[2]}.get(named_by) or row[named_by]
    assert ask("prove-absent", word)[0] == 1
    text = Path("takedown.txt").read_text()
    try:
        Path("takedown.txt").write_text(f"{text}\n{word}\n")
        run("filter")
        assert ask("prove-absent", word)[0] == 1  # the selection is of before
        run("select", "prototypes")
        assert ask("prove-absent", word)[0] == 0
        assert ask("prove-absent", word, "--everywhere")[0] == 1
        assert ask("why", name)[1]["filter"]["reason"] == "takedown"
        found = ask("lost")[1]
        assert found["faults"] == []
        assert found["whole"]["dropped"]["takedown"] >= 1
    finally:
        Path("takedown.txt").write_text(text)
        run("filter", "select", "prototypes")
    assert pa.array(ids("select/selection")).index(name).as_py() >= 0
