"""fetch killed, torn, and out of disk: nothing finished is fetched twice, and the outputs are the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from stages.fetch.candidates import COLUMNS, read_candidates
from stages.fetch.crawl import Crawl
from stages.fetch.params import Fetch
from webdistill.core.files import sha256_file, write_table

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("fetch_server.py")
SETTINGS = {
    "store_size": 64, "format": "webp", "max_pixels": 10_000, "max_bytes": 20_000, "timeout": 20.0, "retries": 0,
    "per_host": 2, "delay": 0.0, "changed": "drop", "shard_size": 7, "shard_bytes": 2500,
}  # fmt: skip
KILLS, CANDIDATES = 50, 36

# Imports once, then runs the stage in a fork of itself for each line `FOLDER LIMIT`; LIMIT: bytes of a file, 0 = none.
PROGRAM = """
import os, resource, sys
from pathlib import Path
import stages.fetch.__main__ as fetch
import stages.fetch.crawl, stages.fetch.ledger, stages.fetch.summary, webdistill.images.pool
from stages.fetch.params import Fetch
from webdistill.core.errors import UserError
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.harness.underway import carry_out

task = Task(seed=0, threads=1, classes=("cat", "dog"), image_size=32, teacher="", test_images="", test_labels="")
settings = Params(task, {"fetch": Fetch(**SETTINGS)}, {})

def once(folder, limit):
    os.chdir(folder)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.stderr = open(os.devnull, "w")
    stage = Stage("fetch", settings, Path.cwd() / "cell")
    try:
        carry_out(stage, fetch.main)
    except UserError as error:
        sys.stdout.write(f"{error}\\n")
        return 2
    return 0

for line in sys.stdin:
    folder, limit = line.split()
    child = os.fork()
    if not child:
        status = 9
        try:
            status = once(folder, int(limit))
        finally:
            sys.stdout.flush()
            os._exit(status)
    sys.stdout.write(f"{child}\\n")
    sys.stdout.flush()
    sys.stdout.write(f"{os.waitpid(child, 0)[1]}\\n")
    sys.stdout.flush()
"""


class Runs:
    """Starts the stage again and again, and kills it."""

    def __init__(self, process: subprocess.Popen[str], log: Path, port: int) -> None:
        self._process = process
        self._log = log
        self.port = port

    def start(self, folder: Path, limit: int = 0) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder} {limit}\n")
        self._process.stdin.flush()
        return int(self._line())

    def end(self) -> tuple[int, list[str]]:
        """(wait status, what it said)"""
        said = [self._line()]
        while not said[-1].isdecimal():
            said.append(self._line())
        return int(said[-1]), said[:-1]

    def killed(self, folder: Path, moment: Callable[[], bool]) -> bool:
        """Run until the moment has come, then kill -9; False: it ended before."""
        child = self.start(folder)
        deadline = time.monotonic() + 60
        while not moment() and Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status, said = self.end()
        assert status in (0, signal.SIGKILL), (status, said)
        return status != 0

    @property
    def asked(self) -> Counter[str]:
        return Counter(self._log.read_text().splitlines())

    @property
    def requests(self) -> int:
        return self._log.read_bytes().count(b"\n")

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program is gone"
        return line.strip()


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_ALLOW_LOOPBACK": "1", "WEBDISTILL_TRACKING": "off",
        "WEBDISTILL_CONTACT": "me@example.org",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    log = tmp_path / "requests.log"
    program = PROGRAM.replace("SETTINGS", repr(SETTINGS))
    with running(str(SERVER), str(log)) as server, running("-c", program) as process:
        assert server.stdout is not None
        yield Runs(process, log, int(server.stdout.readline()))


def prepare(folder: Path, port: int) -> None:
    """Pictures, a repeated one, junk, refusals."""
    paths = [f"/ok/{n}" for n in range(28)] + ["/ok/3/again", "/junk/1", "/status/404", "/noai/5"]
    urls = [f"http://127.0.0.1:{port}{path}" for path in paths]
    urls += [f"http://127.0.0.2:{port}/ok/{n}" for n in range(3)]
    urls += [f"http://127.0.0.1:{port}/status/410"]
    assert len(urls) == CANDIDATES
    columns: dict[str, list[object]] = {name: [""] * len(urls) for name in COLUMNS}
    columns |= {"url": [*urls], "source": ["http"] * len(urls), "row": [*range(len(urls))]}
    target = folder / "cell" / "search" / "candidates.parquet"
    target.parent.mkdir(parents=True)
    write_table(pa.table(columns), target)


def work(folder: Path) -> Path:
    """Where the stage keeps what must survive a kill."""
    return folder / ".work" / "cells" / "cell" / "fetch"


def outputs(folder: Path) -> dict[str, str]:
    data = folder / "cell" / "fetch"
    return {
        str(path.relative_to(data)): sha256_file(path) for path in data.rglob("*") if path.is_file()
    }


def known(folder: Path, copy: Path) -> set[str]:
    """`host path` of the candidates that a run could not ask for again."""
    kept = work(folder) / "journal"
    copy.mkdir()
    if kept.exists():
        shutil.copy(kept, copy)
    given = read_candidates(folder / "cell" / "search" / "candidates.parquet", Path)
    os.environ["WEBDISTILL_CONTACT"] = "me@example.org"
    crawl = Crawl(given, Fetch(**SETTINGS), copy, copy / "scratch", 1)
    urls = given.table.column("url").filter(pa.array(crawl._places >= 0)).to_pylist()
    crawl.close()
    shutil.rmtree(copy)
    return {url[7:].replace(url[7:].split("/")[0], url[7:].split(":")[0] + " ", 1) for url in urls}


def moments(
    runs: Runs, folder: Path, finished: dict[str, int], dice: random.Random
) -> Iterator[Callable[[], bool]]:
    """After some more requests or results, until all are there; then while the outputs are written."""
    journal = work(folder) / "journal"
    for _ in range(KILLS):
        if len(finished) == CANDIDATES:
            break
        for most in (3, 20):
            goal = runs.requests + dice.randint(1, most)
            yield lambda goal=goal: runs.requests >= goal
        size = journal.stat().st_size + dice.randint(1, 3000)
        yield lambda size=size: journal.stat().st_size >= size
    out, data = work(folder) / "out", folder / "cell" / "fetch"
    places = [out / "pool" / "00002.parquet", out / "ledger.parquet", out / "metrics.json"]
    for path in dice.sample([*places, data / "pool", data / "ledger.parquet"], 3):
        yield path.exists


@pytest.mark.slow
def test_killed_at_any_moment_the_outputs_are_those_of_one_run(runs: Runs, tmp_path: Path) -> None:
    once = tmp_path / "once"
    prepare(once, runs.port)
    runs.start(once)
    assert runs.end()[0] == 0
    expected = outputs(once)
    assert {"ledger.parquet", "failures.csv", "metrics.json", "pool/00003.parquet"} <= {*expected}
    dice, kills = random.Random(6), 0
    for number in range(KILLS):
        folder = tmp_path / f"round{number}"
        prepare(folder, runs.port)
        finished: dict[str, int] = {}
        for moment in moments(runs, folder, finished, dice):
            kills += runs.killed(folder, moment)
            asked = runs.asked
            for place in known(folder, tmp_path / "copy"):
                finished.setdefault(place, asked[place])
        runs.start(folder)
        assert runs.end()[0] == 0
        assert outputs(folder) == expected
        asked = runs.asked
        assert {place: asked[place] for place in finished} == finished, "asked again for nothing"
        if kills >= KILLS:
            return
    raise AssertionError(f"{kills} kills only")


@pytest.mark.parametrize("limit", [1_000, 5_000])
def test_a_full_disk_loses_nothing(runs: Runs, tmp_path: Path, limit: int) -> None:
    once, folder = tmp_path / "once", tmp_path / "full"
    for each in (once, folder):
        prepare(each, runs.port)
    runs.start(once)
    assert runs.end()[0] == 0
    runs.start(folder, limit)
    status, said = runs.end()
    assert os.waitstatus_to_exitcode(status) == 2
    assert len(said) == 1
    assert "is full (File too large); make room and run the same command again" in said[0]
    assert not (folder / "cell" / "fetch").exists()
    finished = known(folder, tmp_path / "copy")
    assert len(finished) >= limit // 1_000
    asked = runs.asked
    runs.start(folder)
    assert runs.end()[0] == 0
    assert outputs(folder) == outputs(once)
    assert all(runs.asked[place] == asked[place] for place in finished)


def test_no_room_for_the_outputs_is_said_the_same_way(runs: Runs, tmp_path: Path) -> None:
    prepare(tmp_path / "full", runs.port)
    folder = tmp_path / "full"
    runs.start(folder)
    assert runs.end()[0] == 0
    expected, asked = outputs(folder), runs.asked
    shutil.rmtree(folder / "cell" / "fetch")
    runs.start(folder, 3_000)
    status, said = runs.end()
    assert (os.waitstatus_to_exitcode(status), len(said)) == (2, 1)
    assert "is full (File too large)" in said[0]
    runs.start(folder)
    assert runs.end()[0] == 0
    assert outputs(folder) == expected
    assert runs.asked == asked
