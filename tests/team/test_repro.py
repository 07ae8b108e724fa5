"""python -m webdistill repro: what runs, in which order, how it ends, and that it ends as `dvc repro` does.

On the real pipeline: tests/pipeline/test_repro.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from webdistill.__main__ import main
from webdistill.commands.repro.plan import Step, project, to_do
from webdistill.commands.repro.schedule import Schedule
from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]
TOY = """
stages:
  base:
    cmd: echo base > base.txt
    outs: [base.txt]
  cell:
    matrix:
      arm: [a, b]
      seed: [0, 1]
    cmd: echo $$ > pid-${item.arm}-${item.seed}; sleep ${wait}; cat base.txt > cell-${item.arm}-${item.seed}
    deps: [base.txt]
    outs: ["cell-${item.arm}-${item.seed}"]
  table:
    cmd: cat cell-* > table.txt
    deps: [cell-a-0, cell-a-1, cell-b-0, cell-b-1]
    outs: [table.txt]
"""


def step(name: str, *after: str, changed: bool = True) -> Step:
    return Step(name, frozenset(after), changed)


def test_what_follows_a_changed_stage_is_looked_at_and_nothing_else() -> None:
    steps = [
        step("search", changed=False), step("fetch", "search"), step("embed", "fetch", changed=False),
        step("score", "search", changed=False), step("filter", "embed", changed=False),
    ]  # fmt: skip
    assert [s.name for s in to_do(steps)] == ["fetch", "embed", "filter"]


def test_a_step_starts_when_what_it_needs_is_done() -> None:
    schedule = Schedule(
        [step("embed", "fetch"), step("score", "fetch"), step("select", "embed", "score")]
    )
    assert (schedule.next(), schedule.next(), schedule.next()) == ("embed", "score", None)
    schedule.end("score", success=True)
    assert schedule.next() is None
    assert schedule.left == 2
    schedule.end("embed", success=True)
    assert schedule.next() == "select"


@pytest.mark.parametrize("keep_going", [False, True])
def test_after_a_failure_nothing_starts_that_needs_it(keep_going: bool) -> None:
    schedule = Schedule([step("a"), step("b", "a"), step("c")], keep_going)
    assert schedule.next() == "a"
    schedule.end("a", success=False)
    assert schedule.next() == ("c" if keep_going else None)
    assert schedule.next() is None


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cells of a matrix between a first and a last stage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(TOY)
    (tmp_path / "params.yaml").write_text("wait: 0.1\n")
    (tmp_path / ".dvc").mkdir()
    config = (ROOT / ".dvc" / "config").read_text()
    (tmp_path / ".dvc" / "config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    return tmp_path


def dvc(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "webdistill", "repro", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(*paths: Path) -> None:
    limit = time.monotonic() + 60
    while not all(path.exists() and path.read_text().strip() for path in paths):
        assert time.monotonic() < limit, f"{paths} did not appear"
        time.sleep(0.05)


def wait_until_gone(pids: list[int]) -> None:
    """A zombie has ended: where process 1 adopts no orphans, nobody takes its exit code."""
    limit = time.monotonic() + 30
    while alive := [about for pid in pids if (about := running(pid))]:
        assert time.monotonic() < limit, f"still there: {alive}"
        time.sleep(0.05)


def running(pid: int) -> str:
    """What it is and does; empty once it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return ""
            threads = [thread.id for thread in process.threads()]
            waits = [Path(f"/proc/{pid}/task/{thread}/wchan").read_text() for thread in threads]
            return (
                f"{pid} {process.status()} {waits} child of {process.ppid()}: {process.cmdline()}"
            )
    except (psutil.NoSuchProcess, OSError):
        return ""


def repro(*words: str) -> tuple[int, str, str]:
    """-> exit code, stdout, stderr"""
    process = start(*words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_cells_run_side_by_side_and_the_lock_is_that_of_a_serial_run(toy: Path) -> None:
    code, out, err = repro("-j", "3")
    assert code == 0, err
    lines = err.splitlines()
    assert lines[:2] == ["repro: 6 of 6 stages to look at, 3 at once", "repro: base started"]
    assert lines[2].startswith("repro: base done in ")
    assert lines[2].endswith(" s; 5 left")
    assert lines[3:6] == [f"repro: cell@{name} started" for name in ("a-0", "a-1", "b-0")]
    assert lines[-2] == "repro: table started"
    assert out.startswith("6 stages in ")
    parallel = read_yaml(toy / "dvc.lock")
    assert repro("-j", "3") == (0, "nothing to do: all 6 stages are up to date\n", "")

    for path in [*toy.glob("*.txt"), *toy.glob("cell-*"), toy / "dvc.lock"]:
        path.unlink()
    dvc("repro", "-q", "--no-run-cache")
    assert read_yaml(toy / "dvc.lock") == parallel


def test_a_failing_stage_shows_what_it_said(toy: Path) -> None:
    text = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(text.replace("echo base >", "echo a last word; exit 3; echo >"))
    code, out, err = repro("-j", "2")
    assert code == 1
    assert "repro: base FAILED" in err
    assert "    a last word" in err.splitlines()
    assert out.startswith("base failed, 0 done, 5 not started")


@pytest.mark.slow
def test_a_target_in_a_project_below_is_made_there(toy: Path) -> None:
    """As the studies in pipelines/: the project here knows nothing of them."""
    (toy / "pipelines" / "study").mkdir(parents=True)
    (toy / "pipelines" / ".dvc").mkdir()
    (toy / "pipelines" / ".dvc" / "config").write_text((toy / ".dvc" / "config").read_text())
    for name in ("dvc.yaml", "params.yaml"):
        (toy / name).rename(toy / "pipelines" / "study" / name)
    target = "pipelines/study/dvc.yaml"
    code, _, err = repro("-j", "2", target)
    assert code == 0, err
    assert "repro: study/dvc.yaml:cell@a-0 started" in err.splitlines()
    assert (toy / "pipelines/study/table.txt").read_text() == "base\n" * 4
    assert repro(target)[1].startswith("nothing to do: all 6 stages")
    assert project([f"{target}:cell@a-0", f"{target}:table"]) == (
        Path("pipelines"),
        ["study/dvc.yaml:cell@a-0", "study/dvc.yaml:table"],
    )
    with pytest.raises(UserError, match=r"different DVC projects, \. and pipelines"):
        project([target, "filter"])


def test_wrong_arguments_are_one_line(toy: Path) -> None:
    code, _, err = repro("no_such_stage")
    assert code == 2
    assert err.count("\n") == 1
    assert "no_such_stage" in err
    assert main(["repro", "-j", "0"]) == 2


def test_a_key_of_another_name_is_named(toy: Path) -> None:
    """DVC says what it misses, in the words that docs/parameters.md quotes, and not what is there instead."""
    quoted = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (toy / "params.yaml").write_text(text.replace("\n  method: ", "\n  metod: "))
    (toy / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    command = [sys.executable, "-m", "dvc", "repro", "--dry"]
    plain = subprocess.run(command, capture_output=True, text=True).stderr
    assert f"`{plain.strip().removeprefix('ERROR: ')}`" in quoted
    code, _, err = repro()
    assert code == 2
    assert err == "error: params.yaml: unknown key 'distill.metod'; did you mean 'method'?\n"


@pytest.mark.slow
def test_a_mistyped_change_ends_in_the_words_that_the_page_quotes(toy: Path) -> None:
    (toy / ".dvc" / "config").write_bytes((ROOT / ".dvc" / "config").read_bytes())
    for name in ("params.yaml", "dvc.yaml"):
        (toy / name).write_bytes((ROOT / name).read_bytes())
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    command = [sys.executable, "-m", "dvc", "exp", "run", "-S", "distill.metod=kd"]
    said = " ".join(subprocess.run(command, capture_output=True, text=True).stderr.split())
    quote = "Could not override 'distill.metod'. To append to your config use +distill.metod=kd"
    assert quote in said
    assert f"`{quote}`" in (ROOT / "docs/parameters.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_it_leaves_no_process_and_no_lock(toy: Path, how: signal.Signals) -> None:
    (toy / "params.yaml").write_text("wait: 300\n")
    process = start("-j", "2")
    files = [toy / "pid-a-0", toy / "pid-a-1"]
    wait_for(*files)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    shells = [int(path.read_text()) for path in files]
    assert set(shells) <= set(children)
    os.kill(process.pid, how)
    out, err = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert out.startswith("stopped; finished stages are kept")
        assert "stopping cell@a-0, cell@a-1" in err
        wait_until_gone(children)
    else:  # of its children DVC dies with it; so do this project's stages, which these shells are not
        wait_until_gone([pid for pid in children if pid not in sleeping(shells)])
        for pid in sleeping(shells):
            os.kill(pid, signal.SIGKILL)
    (toy / "params.yaml").write_text("wait: 0.1\n")
    code, _, err = repro()
    assert code == 0, err
    assert (toy / "table.txt").read_text() == "base\n" * 4


@pytest.mark.slow
@pytest.mark.parametrize("left", ["", '{"data/a": {"wri'])
def test_locks_that_a_kill_left_half_written_are_no_obstacle(toy: Path, left: str) -> None:
    """DVC writes this file in place, and refuses to run with half of it."""
    locks = toy / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text(left)
    code, _, err = repro()
    assert code == 0, err
    assert "left half written by a killed run" in err
    assert (toy / "table.txt").read_text() == "base\n" * 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_zombie_holds_no_path(toy: Path) -> None:
    """As in a container whose first process adopts no orphans; a running process keeps what it holds."""
    locks = toy / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(exist_ok=True)
    zombie = subprocess.Popen(["true"])  # nobody takes its exit code until the end of this test
    limit = time.monotonic() + 10
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
    for holder, expected in ((zombie.pid, 0), (os.getpid(), 2)):
        held = {str(toy / "base.txt"): {"pid": holder, "cmd": "dvc repro"}}
        locks.write_text(json.dumps({"write": held, "read": {}}))
        (toy / "base.txt").unlink(missing_ok=True)
        code, _, err = repro("base")
        assert code == expected, err
    assert "is busy" in err
    zombie.wait()


def sleeping(shells: list[int]) -> list[int]:
    """The shells of the toy's cells and what they started."""
    found = []
    for pid in shells:
        if running(pid):
            found += [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return found
