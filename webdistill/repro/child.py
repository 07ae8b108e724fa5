"""One stage through DVC, in a process that ends with the one that started it.

    python -m webdistill.repro.child PARENT STAGE

DVC holds the lock of the repository while it looks, hashes and writes, and gives it back while the stage's command
runs; with --wait-for-lock others wait for it, where they would give up after three seconds.
"""

from __future__ import annotations

import os
import signal
import sys

from webdistill.core.stage import die_with_parent


def main(parent: int, stage: str) -> int:
    """-> DVC's exit code"""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    if os.getppid() != parent:  # it died before we could ask to be told
        return 143
    from dvc.cli import main as dvc

    return int(dvc(["--wait-for-lock", "repro", "--single-item", stage]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
