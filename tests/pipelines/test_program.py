"""How programs of studies start and end: --help, params.yaml, a mistake, a parent that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STUDY = '''"""Weighs apples.

    python -m study.weigh KIND
"""
import time
from pipelines.shared.program import argument, run_study, say
from webdistill.core.errors import UserError

def main(settings, kind, hours):
    if kind not in settings["apples"]:
        raise UserError(f"there is no apple '{kind}' in params.yaml")
    say(f"{settings['apples'][kind]} g")
    time.sleep(3600 * hours)

if __name__ == "__main__":
    run_study(main, argument("kind", help="of apple"), argument("--hours", type=float, default=0.0))
'''
# Starts the program as DVC does, says its number and waits.
PARENT = """
import subprocess, sys, time
print(subprocess.Popen(sys.argv[1:]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study").mkdir()
    (tmp_path / "study/weigh.py").write_text(STUDY)
    (tmp_path / "study/params.yaml").write_text("apples: {boskoop: 210}\n")
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def weigh(study: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study.weigh", *words],
        cwd=study, env=environment(), capture_output=True, text=True,
    )  # fmt: skip


def test_it_gets_its_arguments_and_the_parameters_beside_it(study: Path) -> None:
    done = weigh(study, "boskoop")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "weigh: 210 g\n")


def test_a_mistake_is_one_line_and_exit_code_2(study: Path) -> None:
    done = weigh(study, "elstar")
    assert done.returncode == 2
    assert done.stderr == "weigh: error: there is no apple 'elstar' in params.yaml\n"
    (study / "study/params.yaml").write_text("apples: [\n")
    done = weigh(study, "boskoop")
    assert done.returncode == 2
    assert done.stderr.startswith("weigh: error: ")
    assert done.stderr.count("\n") == 1, "reading the parameters may fail, too"


def test_a_defect_is_no_mistake_of_the_user(study: Path) -> None:
    (study / "study/params.yaml").write_text("pears: 1\n")
    done = weigh(study, "boskoop")
    assert done.returncode == 1
    assert "KeyError: 'apples'" in done.stderr


def test_help_is_the_docstring_and_needs_no_parameters(study: Path) -> None:
    (study / "study/params.yaml").unlink()
    done = weigh(study, "--help")
    assert done.returncode == 0
    shown = [line.strip() for line in done.stdout.splitlines()]  # Python 3.13 takes indents away
    place = shown.index("Weighs apples.")
    assert shown[place + 1 : place + 3] == ["", "python -m study.weigh KIND"]
    assert "of apple" in done.stdout


def test_it_ends_with_the_program_that_started_it(study: Path) -> None:
    words = [sys.executable, "-m", "study.weigh", "boskoop", "--hours", "1"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *words],
        cwd=study, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stderr is not None
    program = psutil.Process(int(parent.stdout.readline()))
    try:
        assert parent.stderr.readline() == "weigh: 210 g\n", "it is at work"
        parent.kill()
        limit = time.monotonic() + 60
        while program.is_running() and program.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < limit, "it outlives its parent"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.communicate()
        if program.is_running():
            program.send_signal(signal.SIGKILL)
