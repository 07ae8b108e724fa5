"""The memory of a processor's tensors: blocks that are freed serve again, and no value changes."""

import os
import subprocess
import sys

import pytest

HOLD = "from webdistill.models.memory import keep_freed_memory; keep_freed_memory(); "
FAULTS = """
import resource, torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(24):
    torch.ones(1 << 23)
before = faults()
for _ in range(8):
    torch.ones(1 << 23)
print(faults() - before)
"""


def faults(begin: str) -> int:
    """Pages that the kernel handed out for eight tensors of 32 MiB, one after the other, once the heap has grown."""
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    done = subprocess.run(
        [sys.executable, "-c", begin + FAULTS],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="of glibc alone"
)
def test_freed_tensors_cost_no_new_pages() -> None:
    assert faults(HOLD) < 1000
    assert faults("") > 1000, (
        "else this test says nothing: the system's allocator keeps blocks, too"
    )
