"""A stage ends with the program that waits for it, and a Ctrl-C ends it with one line."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

SHELLS = frozenset({"sh", "dash", "bash", "zsh", "fish", "ksh"})
GRACE = 10.0  # seconds from SIGTERM to the end, whatever a library is doing
TERMINATED, INTERRUPTED = 143, 130  # exit codes, as a shell reports these signals


def die_with_parent() -> None:
    """End this process when its parent ends, also when the parent is a shell between it and DVC (Linux only).

    DVC runs a stage through `$SHELL -c`. Some shells stay beside the command that they started, and outlive DVC.
    """
    signal.signal(signal.SIGTERM, _terminated)
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    waiting = os.getppid()
    if "DVC_STAGE" in os.environ:
        while _name(waiting) in SHELLS and (above := _parent(waiting)):
            waiting = above
        if waiting == 1 and not _is_dvc(1):  # DVC was gone before we could look
            sys.exit(TERMINATED)
    if not waiting:  # it lies outside of our container, as with `docker exec`
        return
    try:
        handle = os.pidfd_open(waiting)
    except OSError:  # it has just ended, or the kernel is older than 5.3
        if not Path(f"/proc/{waiting}").exists():
            sys.exit(TERMINATED)
        return
    threading.Thread(target=_end_with, args=(handle,), daemon=True, name="lifetime").start()


def quiet_interrupt() -> None:
    """A Ctrl-C that comes while modules are imported ends with one line, not with a traceback through all of them."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("stopped\n")
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """Once: kernel and thread both tell of a parent's end, and the second time must not cut the cleaning up short."""
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # not SIG_IGN, which programs started from here would inherit
    sys.exit(TERMINATED)


def _end_with(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(TERMINATED)


def _is_dvc(pid: int) -> bool:
    """Or another Python: in a container whose command is `dvc repro`, DVC is process 1; elsewhere an init adopts."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return Path(os.fsdecode(command.partition(b"\0")[0])).name.startswith(("python", "dvc"))


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    """0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])  # a name may hold spaces and brackets
