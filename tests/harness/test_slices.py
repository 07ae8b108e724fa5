"""Short turns on a busy processor: asked for, granted, and inherited by threads and programs of a stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.harness.slices import SLICE

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
