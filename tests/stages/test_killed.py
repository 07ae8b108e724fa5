"""Stages killed with their outputs or their kept work half written: run again, the outputs are the same bytes.

fetch, search and embed have tests of their own.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest

from tests.stages.test_fetch_resume import Runs, running
from tests.stages.test_score import make_pool, make_teacher
from webdistill.core.files import write_table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMAGES = 60
KILLS, TRIES = 3, 25

# Imports once, then runs the stage in a fork of itself for each line `FOLDER LIMIT`. A file that grows beyond LIMIT
# bytes kills the process (0: no limit).
PROGRAM = """
import importlib, os, resource, signal, sys
from webdistill.harness.stage import run

stage, *modules = sys.argv[1:]
main = importlib.import_module(f"stages.{stage}.__main__").main
for module in modules:
    importlib.import_module(module)
settings = [
    "task.classes=[cat, dog, eel]", "task.image_size=16", "task.teacher=teacher", "task.threads=1",
    "score.batch_size=8", "select.budget=40", "select.allow_empty_classes=true", "prototypes.count=4",
    "prototypes.dims=4", "distill.batch_size=8",
]

for line in sys.stdin:
    folder, limit = line.split()
    child = os.fork()
    if not child:
        status = 9
        try:
            os.chdir(folder)
            if int(limit):
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would make an OSError of it
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
            run(stage, main, [word for each in settings for word in ("--set", each)])
        except SystemExit as error:
            status = error.code
        finally:
            os._exit(status)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
STAGES = {
    "score": ("stages.score.teacher", "webdistill.models.checkpoint"),
    "select": ("stages.select.rules", "stages.select.scores"),
    "prototypes": ("stages.prototypes.dictionary", "stages.prototypes.quality"),
}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Runs]]:
    with ExitStack() as stack:
        yield {
            stage: Runs(stack.enter_context(running("-c", PROGRAM, stage, *modules)), Path(), 0)
            for stage, modules in STAGES.items()
        }


def ended(runs: Runs, folder: Path, limit: int = 0) -> int:
    """Exit code, or a signal's number below zero."""
    runs.start(folder, limit)
    return os.waitstatus_to_exitcode(runs.end()[0])


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Runs]) -> Path:
    """A project in which each stage has run undisturbed."""
    folder = tmp_path_factory.mktemp("once") / "project"
    make_pool(folder / "data", list(range(IMAGES)), 12)
    make_teacher(folder / "teacher")
    shutil.copy(ROOT / "params.yaml", folder)
    ids = [f"{i:032x}" for i in range(IMAGES)]
    for name in ("filter", "embed"):
        (folder / "data" / name).mkdir()
    write_table(pa.table({"id": ids[5:]}), folder / "data/filter/kept.parquet")
    dropped = pa.table({"id": ids[:5], "reason": ["low_score"] * 5})
    write_table(dropped, folder / "data/filter/dropped.parquet")
    scores = pa.table(
        {"id": ids, "query_class": pa.array([i % 3 for i in range(IMAGES)], pa.int32())}
    )
    write_table(scores, folder / "data/embed/scores.parquet")
    for stage in STAGES:
        assert ended(runs[stage], folder) == 0
    return folder


def outputs(folder: Path, stage: str) -> dict[str, bytes]:
    data = folder / "data" / stage
    return {
        path.relative_to(data).as_posix(): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file()
    }


def before(once: Path, stage: str, folder: Path) -> Path:
    """The project before the stage has run."""
    shutil.copytree(once, folder)
    shutil.rmtree(folder / "data" / stage)
    shutil.rmtree(folder / ".work" / stage)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_killed_within_a_file_the_outputs_are_those_of_one_run(
    runs: dict[str, Runs], once: Path, tmp_path: Path, stage: str
) -> None:
    expected = outputs(once, stage)
    largest = max(map(len, expected.values()))
    limits = sorted({1, *random.Random(0).sample(range(2, largest), 3), largest - 1})
    folder = before(once, stage, tmp_path / "project")
    for limit in limits:
        assert ended(runs[stage], folder, limit) == -signal.SIGXFSZ
        assert not (folder / "data" / stage).exists()
    assert ended(runs[stage], folder) == 0
    assert outputs(folder, stage) == expected


def after(place: Path, files: int, seconds: float) -> Callable[[], bool]:
    """A moment: so many seconds after so many new files, finished or not, have appeared below `place`."""
    goal: list[float] = []
    there = {path.name for path in place.rglob("*")}

    def come() -> bool:
        if not goal and len({path.name for path in place.rglob("*.*")} - there) >= files:
            goal.append(time.monotonic() + seconds)
        return bool(goal) and time.monotonic() >= goal[0]

    return come


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_the_outputs_are_those_of_one_run(
    runs: dict[str, Runs], once: Path, tmp_path: Path, stage: str
) -> None:
    expected, dice, kills = outputs(once, stage), random.Random(1), 0
    for number in range(TRIES):
        folder = before(once, stage, tmp_path / f"round{number}")
        for _ in range(2):
            moment = after(folder / ".work" / stage, dice.choice([1, 1, 2]), dice.uniform(0, 0.01))
            kills += runs[stage].killed(folder, moment)
            for name, content in outputs(folder, stage).items():
                assert content == expected[name]
        assert ended(runs[stage], folder) == 0
        assert outputs(folder, stage) == expected
        if kills >= KILLS:
            return
    raise AssertionError(f"{kills} kills only")
