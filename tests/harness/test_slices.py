"""Short turns on a busy processor: asked for, granted, and inherited by threads and programs of a stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from webdistill.harness import slices
from webdistill.harness.slices import SLICE, Waiting

ROOT = Path(__file__).parents[2]
ASK = """
import ctypes, struct, threading
def turn(kind):
    found = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall({"x86_64": 315, "aarch64": 275}[kind], 0, found, 48, 0) == 0
    _, _, _, nice, _, length, _, _ = struct.unpack("IIQiIQQQ", found.raw)
    print(nice, length, flush=True)
"""
FORGET = """
import ctypes, platform, struct
wish = struct.pack("IIQiIQQQ", 48, 0, 0, 0, 0, 0, 0, 0)  # 0: the system's own length
number = {"x86_64": 314, "aarch64": 274}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 0, wish, 0) == 0
"""
STAGE = """
import platform, subprocess, sys, threading
from webdistill.harness.stage import run
def main(stage):
    turn(platform.machine())
    thread = threading.Thread(target=turn, args=[platform.machine()])
    thread.start()
    thread.join()
    subprocess.run([sys.executable, "-c", sys.argv[2] + "turn(sys.argv[1])", platform.machine()])
run("select", main, ["--params", sys.argv[1]])
"""
RELEASE = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())


@pytest.mark.skipif(
    sys.platform != "linux" or RELEASE < (6, 12), reason="turns are asked for from Linux 6.12 on"
)
def test_a_stage_and_all_it_starts_have_short_turns_and_the_same_priority(tmp_path: Path) -> None:
    ask = f"import sys\n{ASK}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off"}
    done = subprocess.run(
        ["nice", "-n", "3", sys.executable, "-c", ask + STAGE, str(ROOT / "params.yaml"), ask],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    nice = min(os.nice(0) + 3, 19)
    assert done.stdout.splitlines() == [f"{nice} {SLICE}"] * 3
    usual = [sys.executable, "-c", f"{FORGET}{ask}turn(sys.argv[1])", platform.machine()]
    told = subprocess.run(usual, capture_output=True, text=True, check=True).stdout
    assert int(told.split()[1]) != SLICE, "nobody has it without asking"


SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
WAIT = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
from webdistill.harness import slices
slices.LOOK_EVERY = 1.0
waiting = slices.Waiting(2)
until = time.monotonic() + 30
while (word := waiting.word()) is None and time.monotonic() < until:
    pass
print(word, waiting.word(), sep="\\n")
"""


@pytest.mark.skipif(
    not slices.OWN.exists(), reason="this system does not tell how long threads wait"
)
def test_beside_a_busy_program_on_its_processor_a_training_says_that_it_waits() -> None:
    processor = str(min(os.sched_getaffinity(0)))
    with subprocess.Popen([sys.executable, "-c", SPIN, processor]) as busy:
        try:
            done = subprocess.run(
                [sys.executable, "-c", WAIT, processor],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
        finally:
            busy.kill()
    word, again = done.stdout.splitlines()
    assert "other programs keep the processors busy" in word
    assert "its 2 threads" in word
    assert "task.threads=1" in word
    assert again == "None", "it says so once"


@pytest.mark.parametrize(
    ("threads", "waited", "told"),
    [(2, 0.5, False), (2, 2.5, True), (1, 2.5, False), (4, None, False)],
    ids=str,
)
def test_it_speaks_of_more_than_a_fifth_of_the_time_and_of_threads_that_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, waited: float | None, told: bool
) -> None:
    """In a file that stands for the system's: 7 s on a processor and `waited` s in wait for one; None: no such file."""
    own, clock = tmp_path / "schedstat", [0.0]
    monkeypatch.setattr(slices, "OWN", own)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    if waited is not None:
        own.write_text("1000000000 2000000000 5\n")
    waiting = Waiting(threads)
    clock[0] = slices.LOOK_EVERY / 2
    assert waiting.word() is None, "too soon"
    clock[0] = slices.LOOK_EVERY + 1
    if waited is not None:
        own.write_text(f"8000000000 {int((2 + waited) * 1e9)} 9\n")
    word = waiting.word()
    assert (word is not None) == told
    assert not told or "26% of the time" in str(word)
