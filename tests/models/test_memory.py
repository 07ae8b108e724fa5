"""The memory of a processor's tensors: blocks that are freed serve again."""

import os
import platform
import subprocess
import sys

import pytest

HOLD = "from webdistill.models.memory import keep_freed_memory; keep_freed_memory(); "
FAULTS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def block():
    place = ctypes.c_void_p(libc.malloc(1 << 26))
    libc.memset(place, 1, 1 << 26)
    libc.free(place)
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    block()
before = faults()
for _ in range(8):
    block()
print(faults() - before)
"""


def faults(begin: str) -> int:
    """Pages that the kernel handed out for eight blocks of 64 MiB, one after the other, once the heap has grown."""
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    done = subprocess.run(
        [sys.executable, "-c", begin + FAULTS],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_tensors_cost_no_new_pages() -> None:
    assert faults(HOLD) < 50
    assert faults("") > 50, "else this test says nothing: the system keeps blocks by itself"
