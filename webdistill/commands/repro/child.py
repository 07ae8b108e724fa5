"""One stage through DVC, in a process that ends with the one that started it.

    python -m webdistill.commands.repro.child PARENT FOLDER STAGE

FOLDER is that of the DVC project. DVC holds the project's lock while it looks, hashes and writes, and gives it back
while the stage's command runs; with --wait-for-lock others wait for it, where they would give up after three seconds.
"""

from __future__ import annotations

import os
import signal
import sys

from webdistill.harness.lifetime import die_with_parent


def main(parent: int, folder: str, stage: str) -> int:
    """-> DVC's exit code"""
    die_with_parent()
    # At once: an exception may come while DVC cannot pass it on, and then the process would stay.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    if os.getppid() != parent:  # it died before we could ask to be told
        return 143
    from dvc.cli import main as dvc

    return int(dvc(["--wait-for-lock", "--cd", folder, "repro", "--single-item", stage]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
