"""The Ray engine on a real cluster: the bytes of the local one, whatever is killed, and one line for what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import STAGES, outputs
from tests.engine.ray_cluster import SECOND, RayCluster, alive, descendants, named, wait_for
from tests.small_project import Project

pytestmark = pytest.mark.slow

pytest.importorskip(
    "ray", reason="Ray is not installed: pip install -c constraints.txt 'webdistill[ray]'"
)

# A task that says when it has begun a shard, and waits until it is told to go on.
SLOW = """
import os, random, time
from pathlib import Path

import pyarrow as pa

from webdistill.core.errors import UserError
from webdistill.core.files import write_table

def maker(facts):
    return work

def work(shard, target):
    place = Path("signals")
    (place / f"begun-{shard.stem}-{os.getpid()}").touch()
    while not ((place / "go").exists() or (place / f"go-{shard.stem}").exists()):
        time.sleep(0.05)
    if (place / f"crash-{shard.stem}").exists():
        os._exit(1)
    if (place / f"bad-{shard.stem}").exists():
        raise UserError("embed.model gives nonsense; take another one")
    yield 6
    write_table(pa.table({"bytes": [random.Random(shard.name).randbytes(20_000)]}), target)
"""
DRIVER = """
from pathlib import Path

import slow
from webdistill.engine import running
from webdistill.engine.jobs import Job, Task
from webdistill.harness.stage import run

def main(stage):
    work = stage.scratch("slow")
    shards = sorted(Path("data/fetch/pool").glob("*.parquet"))
    running.run(stage, Task(slow.maker, {}, slow.work), [Job(s, work / s.name, 6) for s in shards])
    with stage.output("slow") as folder:
        folder.mkdir()
        for shard in shards:
            (folder / shard.name).write_bytes((work / shard.name).read_bytes())

run("score", main)
"""
OTHER_TORCH = """
import importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: "1.0" if name == "torch" else real(name)
"""


@pytest.fixture(scope="module")
def cluster(nine: Project) -> Iterator[RayCluster]:
    with RayCluster(nine.environment) as cluster:
        yield cluster


@pytest.fixture
def project(nine: Project, tmp_path: Path) -> Project:
    """With the slow task."""
    project = nine.copy(tmp_path / "project")
    (project.root / "slow.py").write_text(SLOW)
    (project.root / "driver.py").write_text(DRIVER)
    (project.root / "signals").mkdir()
    return project


class Run:
    """A stage on the cluster."""

    def __init__(self, cluster: RayCluster, project: Project, *command: str) -> None:
        place = {"PYTHONPATH": str(project.root), "WEBDISTILL_ENGINE": "ray"}
        self._signals = project.root / "signals"
        self.process = subprocess.Popen(
            [*cluster.inside, "python", *command], cwd=project.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**cluster.environment, **place}, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def begun(self, count: int) -> dict[int, str]:
        """process -> shard, as soon as there are so many."""
        wait_for("no worker begins", lambda: len(self._begun()) >= count or self._ended())
        return self._begun()

    def _begun(self) -> dict[int, str]:
        names = [path.name.split("-") for path in self._signals.glob("begun-*")]
        return {int(pid): shard for _, shard, pid in names}

    def shards(self) -> set[str]:
        return {path.name.split("-")[1] for path in self._signals.glob("begun-*")}

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def go(self, shard: str = "") -> None:
        (self._signals / (f"go-{shard}" if shard else "go")).touch()

    def end(self) -> tuple[int, list[str]]:
        """Exit code, and the lines on stderr but for those of the bar."""
        self.said, said = self.process.communicate(timeout=500)
        return self.process.returncode, [
            line for line in said.splitlines() if " img/s, " not in line
        ]


@pytest.fixture
def second(cluster: RayCluster) -> Iterator[subprocess.Popen[bytes]]:
    process = cluster.second()
    yield process
    cluster.stop(process)


def test_bytes_equal_those_of_the_local_engine(
    cluster: RayCluster, second: subprocess.Popen[bytes], nine: Project, tmp_path: Path
) -> None:
    project = nine.copy(tmp_path / "project")
    for stage in STAGES:
        shutil.rmtree(project.root / "data" / stage, ignore_errors=stage == "filter")
        shutil.rmtree(project.root / ".work" / stage)
        code, said = Run(cluster, project, "-m", f"stages.{stage}").end()
        assert code == 0, said
        assert not [line for line in said if "earlier run" in line or "lost" in line]
    assert outputs(project.root) == outputs(nine.root)


def test_a_killed_worker_and_a_killed_machine_cost_their_shards_only(
    cluster: RayCluster, project: Project
) -> None:
    """Each is said once; the outputs are those of a run in which nobody was killed."""
    process = cluster.second()
    try:
        run = Run(cluster, project, "driver.py")
        there = [pid for pid in run.begun(2) if pid in descendants(process.pid)]
        here = next(pid for pid in run.begun(2) if pid not in there)
        first = run.begun(2)[here]
        os.kill(here, signal.SIGKILL)
        run.begun(3)
        (raylet,) = named(process.pid, "raylet")
        last = run.begun(3)[there[0]]
        os.kill(raylet, signal.SIGKILL)
        wait_for("its worker stays", lambda: not alive(there[0]))  # and would finish its shard
        run.go()
        code, said = run.end()
        assert code == 0, said
        lost = [line for line in said if "lost" in line]
        assert [line.split(" (")[0] for line in lost] == [
            f"score: a worker was lost at {shard}.parquet" for shard in (first, last)
        ]
        assert not [line for line in said if not line.startswith("score: ")]
    finally:
        cluster.stop(process)
    on_ray = sorted((project.root / "data/score/slow").iterdir())
    shutil.rmtree(project.root / ".work/score")
    done = subprocess.run(["python", "driver.py"], cwd=project.root, env=project.environment)
    assert done.returncode == 0
    for path in on_ray:
        assert path.read_bytes() == (project.root / "data/score/slow" / path.name).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_driver_that_is_stopped_leaves_nobody_at_work_and_what_is_finished(
    cluster: RayCluster, project: Project, number: signal.Signals, code: int
) -> None:
    run = Run(cluster, project, "driver.py")
    (shard,) = run.begun(1).values()
    run.go(shard)
    wait_for("no second shard", lambda: len(run.shards()) >= 2)
    os.kill(run.process.pid, number)
    ended, said = run.end()
    assert ended == code
    if number == signal.SIGINT:
        assert said[-1] == "score: stopped; the same command resumes from here"
        assert not [line for line in said if "Traceback" in line]
    for pid in run.begun(1):
        wait_for("a worker goes on", lambda pid=pid: not alive(pid))
    again = Run(cluster, project, "driver.py")
    again.go()
    ended, said = again.end()
    assert ended == 0, said
    assert "score: an earlier run finished 1 of 9 shards" in said


def test_an_error_of_a_shard_is_one_line_that_names_it(
    cluster: RayCluster, project: Project
) -> None:
    (project.root / "signals/bad-00002").touch()
    run = Run(cluster, project, "driver.py")
    run.go()
    code, said = run.end()
    assert code == 2
    assert said == [
        "score: error: data/fetch/pool/00002.parquet: embed.model gives nonsense; take another one"
    ]


def test_a_shard_that_takes_its_workers_down_is_named(
    cluster: RayCluster, project: Project
) -> None:
    (project.root / "signals/crash-00000").touch()
    run = Run(cluster, project, "driver.py")
    run.go()
    code, said = run.end()
    assert code == 2
    assert said[-1].startswith("score: error: data/fetch/pool/00000.parquet: 3 workers were lost")
    assert sum("another one takes the shard" in line for line in said) == 2


def test_a_worker_with_another_torch_refuses(
    cluster: RayCluster, nine: Project, tmp_path: Path
) -> None:
    project = nine.copy(tmp_path / "project")
    shutil.rmtree(project.root / ".work/embed")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sitecustomize.py").write_text(OTHER_TORCH)
    process = cluster.second(environment={"PYTHONPATH": str(tmp_path / "other")})
    try:
        code, said = Run(cluster, project, "-m", "stages.embed").end()
        assert code == 2
        (line,) = [line for line in said if "error" in line]
        assert "would compute other bytes: torch is 1.0 instead of" in line
        assert line.endswith("so that all have the same")
    finally:
        cluster.stop(process)


def test_doctor_has_a_line_for_everything_and_the_fix(
    cluster: RayCluster, nine: Project, tmp_path: Path
) -> None:
    project = nine.copy(tmp_path / "project")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/sitecustomize.py").write_text(OTHER_TORCH)
    command = ["-m", "webdistill", "doctor", "--engine"]
    code, said = Run(cluster, project, *command).end()
    assert (code, said) == (0, [])
    process = cluster.second(environment={"PYTHONPATH": str(tmp_path / "other")})
    try:
        done = Run(cluster, project, *command)
        code, _ = done.end()
        lines = done.said.splitlines()
    finally:
        cluster.stop(process)
    assert code == 1
    assert lines[0] == "engine ray, 2 machines"
    found = {line.split()[1]: line.split()[0] for line in lines[1:]}
    facts = (
        "files",
        "code",
        "numpy",
        "pillow",
        "open_clip_torch",
        "timm",
        "arithmetic",
        "precision",
    )
    assert found == {**dict.fromkeys(facts, "ok"), "torch": "fail"}
    assert f"{SECOND}: torch is 1.0 instead of" in lines[-1]
    assert "install it there with `pip install -c constraints.txt`" in lines[-1]
    assert not list((project.root / ".work").glob("doctor-*"))


def test_a_full_disk_of_a_worker_is_one_line(cluster: RayCluster, project: Project) -> None:
    if not cluster.inside:
        pytest.skip("this user may not mount a small disk")
    full = project.root / ".work/score"
    mount = 'mount -t tmpfs -o size=4k tmpfs "$0" && exec "$@"'
    process = cluster.second(before=("unshare", "-m", "sh", "-c", mount, str(full)))
    try:
        run = Run(cluster, project, "driver.py")
        run.go()
        code, said = run.end()
        assert code == 2
        assert "parquet: the disk of " in said[-1]
        assert "is full (No space left on device); make room" in said[-1]
    finally:
        cluster.stop(process)
    code, said = Run(cluster, project, "driver.py").end()
    assert code == 0, said


def test_no_cluster_is_one_line(nine: Project, tmp_path: Path) -> None:
    project = nine.copy(tmp_path / "project")
    shutil.rmtree(project.root / ".work/score")
    for address, message in (("127.0.0.1:9", "nobody answers at"), ("head", "expected HOST:PORT")):
        done = subprocess.run(
            ["python", "-m", "stages.score"], cwd=project.root, text=True, capture_output=True,
            env={**project.environment, "WEBDISTILL_ENGINE": "ray", "RAY_ADDRESS": address},
        )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert message in line
