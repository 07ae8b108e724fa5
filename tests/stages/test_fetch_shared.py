"""A crawl shared out by host: the bytes of one process whatever the number of jobs, and each address asked for once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from stages.fetch.candidates import COLUMNS, Candidates
from stages.fetch.sharing import jobs_of, share
from tests.engine.ray_cluster import RayCluster, wait_for
from tests.stages.test_fetch_http import SETTINGS
from tests.stages.test_fetch_resume import outputs, running
from webdistill.core.files import write_table

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("fetch_server.py")
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")

# The stage in the current folder, at a pace of 20 requests a second and host; jobs of a cluster have 4 addresses.
PROGRAM = """
import sys
from pathlib import Path
import stages.fetch.__main__ as fetch
import stages.fetch.sharing as sharing
from stages.fetch.params import Fetch
from webdistill.core.errors import UserError
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.harness.underway import carry_out

sharing.FEW = 4
task = Task(seed=0, threads=1, classes=("cat", "dog"), image_size=32, teacher="", test_images="", test_labels="")
stage = Stage("fetch", Params(task, {"fetch": Fetch(**SETTINGS)}, {}), Path.cwd() / "cell")
try:
    carry_out(stage, fetch.main, shared=len(sys.argv) > 1)
except UserError as error:
    sys.exit(f"error: {error}")
""".replace("SETTINGS", repr({**SETTINGS, "delay": 0.05}))


def listed(urls: list[str], sources: list[str] | None = None) -> pa.Table:
    columns: dict[str, list[object]] = {name: [""] * len(urls) for name in COLUMNS}
    columns |= {"url": [*urls], "source": [*(sources or ["http"] * len(urls))]}
    return pa.table({**columns, "row": [*range(len(urls))]})


def prepare(folder: Path, port: int) -> None:
    """Hosts in turn: pictures, equal ones on two hosts, junk, an answer that may pass, a host that refuses."""
    kinds = [f"/ok/{n}" for n in range(9)] + ["/junk/1", "/status/503", "/status/404", "/noai/5"]
    urls = [f"http://{host}:{port}{kind}" for kind in kinds for host in HOSTS]
    write_table(listed(urls), folder / "cell/search/candidates.parquet")


class Runs:
    """Starts the stage in folders."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log = port, log

    def folder(self, path: Path) -> Path:
        (path / "cell/search").mkdir(parents=True)
        prepare(path, self.port)
        return path

    def start(self, folder: Path, rank: int | None = None, ranks: int = 0) -> subprocess.Popen[str]:
        array = {
            "WEBDISTILL_ENGINE": "array",
            "WEBDISTILL_RANK": f"{rank}",
            "WEBDISTILL_RANKS": f"{ranks}",
        }
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_ALLOW_LOOPBACK": "1", "WEBDISTILL_TRACKING": "off",
            "WEBDISTILL_CONTACT": "me@example.org", **(array if rank is not None else {}),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *(["shared"] if rank is not None else [])],
            cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def asked(self) -> Counter[str]:
        """Pictures alone."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Counter(line for line in lines if "." not in line.split(" ")[1])


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=200)[1]
    assert process.returncode == code, said
    return said


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    log = tmp_path / "requests.log"
    with running(str(SERVER), str(log)) as server:
        assert server.stdout is not None
        yield Runs(int(server.stdout.readline()), log)


def test_a_host_belongs_to_one_job_whatever_its_spelling() -> None:
    urls = [f"https://h{n}.example/{k}" for n in range(50) for k in range(3)]
    whole = jobs_of(listed(urls), 7)
    assert set(whole.tolist()) == set(range(7))
    assert all(len(set(whole[at : at + 3].tolist())) == 1 for at in range(0, 150, 3))
    spelt = [url.replace("h", "H", 1).replace(".example", ".EXAMPLE:8080") for url in urls]
    assert (
        jobs_of(listed([u.replace("Https", "https") for u in spelt]), 7).tolist() == whole.tolist()
    )
    assert jobs_of(listed(["a.jpg", urls[0]], ["file", "http"]), 7).tolist() == [-1, whole[0]]
    parts = [
        share(Candidates(listed(urls), {}), job, 7).table["url"].to_pylist() for job in range(7)
    ]
    assert sorted(url for part in parts for url in part) == sorted(urls)


def test_the_number_of_ranks_changes_no_byte_and_nothing_is_asked_twice(
    runs: Runs, tmp_path: Path
) -> None:
    alone = runs.folder(tmp_path / "alone")
    ended(runs.start(alone))
    expected, once = outputs(alone), runs.asked
    assert {"ledger.parquet", "pool/00000.parquet"} <= {*expected}
    assert max(once.values()) == 1
    folder, ranks = runs.folder(tmp_path / "shared"), 3
    said = [ended(one) for one in [runs.start(folder, n, ranks) for n in range(ranks)]]
    assert all(f"rank {n} of {ranks} has finished its " in text for n, text in enumerate(said))
    assert not (folder / "cell/fetch").exists()
    assert set(runs.asked.values()) <= {2}, "an address was asked for by two ranks"
    ended(runs.start(folder))
    assert runs.asked == Counter(dict.fromkeys(once, 2)), "publishing asks nobody"
    assert outputs(folder) == expected
    left = [path.name for path in (folder / ".work/cells/cell/fetch").iterdir()]
    assert not [name for name in left if name.startswith(("journal-", "ranks"))]
    ended(runs.start(folder))
    again = {place for place, times in runs.asked.items() if times > 2}
    assert again == {f"{host} /status/503" for host in ("127.0.0.1", "127.0.0.4")}, (
        "these may have passed"
    )


@pytest.mark.slow
def test_a_killed_rank_goes_on_where_it_was_under_any_number_of_ranks(
    runs: Runs, tmp_path: Path
) -> None:
    folder = runs.folder(tmp_path / "killed")
    rank = runs.start(folder, 0, 1)
    wait_for("nobody is asked", lambda: len(runs.asked) > 8 or rank.poll() is not None)
    rank.send_signal(signal.SIGKILL)
    ended(rank, -signal.SIGKILL)
    other = ended(runs.start(folder, 0, 2), 1)
    assert "error: a crawl of 1 ranks has begun, and this is one of 2" in other
    ended(runs.start(folder, 0, 1))
    ended(runs.start(folder))
    alone = runs.folder(tmp_path / "alone")
    ended(runs.start(alone))
    assert outputs(folder) == outputs(alone)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'webdistill[ray]'")
    with RayCluster({**os.environ, "WEBDISTILL_TRACKING": "off"}) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_makes_the_bytes_of_one_process(cluster: RayCluster, tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    with subprocess.Popen(
        [*cluster.inside, sys.executable, str(SERVER), str(log)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        runs = Runs(int(server.stdout.readline()), log)
        found = []
        for engine in ("local", "ray"):
            folder = runs.folder(tmp_path / engine)
            environment = {
                **cluster.environment, "PYTHONPATH": str(ROOT), "WEBDISTILL_ENGINE": engine,
                "WEBDISTILL_ALLOW_LOOPBACK": "1", "WEBDISTILL_CONTACT": "me@example.org",
            }  # fmt: skip
            done = subprocess.run(
                [*cluster.inside, sys.executable, "-c", PROGRAM], cwd=folder, env=environment,
                capture_output=True, text=True, timeout=400,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found.append(outputs(folder))
        assert found[0] == found[1]
        assert set(runs.asked.values()) == {2}
        assert server.stdin is not None
        server.stdin.close()
