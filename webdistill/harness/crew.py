"""Further processes of a stage: they end with it, and it ends in one line when one of them does.

The stage's own process is number 0. It alone writes, logs and is recorded; the others run `stages/NAME/rank.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from webdistill.core import determinism, files
from webdistill.core.errors import UserError
from webdistill.harness import closure, params
from webdistill.harness.stage import Stage

T = TypeVar("T")
LOOK_EVERY = 0.1  # seconds between looks at the processes
PATIENCE = 3.0  # seconds that one in trouble waits for number 0 to say it better
GRACE = 5.0  # seconds for number 0 to end by itself once another is gone


class Follower(Stage):
    """The stage as a further process sees it: inputs that number 0 has checked, no word and no output."""

    def __init__(self, name: str, facts: dict[str, Any], settings: params.Params) -> None:
        cell = Path(facts["cell"]) if facts["cell"] is not None else None
        super().__init__(name, settings, cell, Path(facts["source"]))
        self.inputs, self._scratch = facts["inputs"], Path(facts["scratch"])

    def input(self, name: str) -> Path:
        return self.places.find(name)

    def scratch(self, *facts: object) -> Path:
        return self._scratch

    def log(self, message: str) -> None:
        pass

    def progress(self, items: Iterable[T], **_: Any) -> Iterator[T]:
        return iter(items)


@contextmanager
def crew(stage: Stage, count: int, scratch: Path) -> Iterator[Path]:
    """Start processes 1 ... count - 1 of a stage; -> a folder in which they meet. They are gone afterwards.

    `scratch`: where number 0 keeps unfinished work. Raises UserError when one of them ends before number 0 is done.
    """
    with tempfile.TemporaryDirectory(prefix="webdistill-") as name:
        folder = Path(name)
        facts = {
            "parent": os.getpid(),
            "count": count,
            "cell": None if stage.places.cell is None else str(stage.places.cell),
            "source": str(stage.places.source),
            "inputs": stage.inputs,
            "scratch": str(scratch),
        }
        files.write_json(facts, folder / "facts.json")
        files.write_json(stage.settings.raw, folder / "params.json")
        started = [_start(stage.name, folder, rank) for rank in range(1, count)]
        watch = _Watch(stage.name, started)
        try:
            yield folder
        except Exception as error:
            if not isinstance(error, UserError) and watch.told():
                raise UserError(watch.lost) from None
            raise
        finally:
            watch.end()
            for each in started:
                each.kill()
                each.wait()


def _start(name: str, folder: Path, rank: int) -> subprocess.Popen[bytes]:
    paths = [str(closure.CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}.rank", str(folder), str(rank)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
    )


class _Watch:
    """Notices that a process has ended, ends the others, and number 0 too where it still waits for them."""

    def __init__(self, name: str, started: list[subprocess.Popen[bytes]]) -> None:
        self.name, self.started = name, started
        self.lost = ""  # what to say once one is lost
        self._done, self._gone = threading.Event(), threading.Event()
        threading.Thread(target=self._look, daemon=True, name="crew").start()

    def told(self) -> bool:
        """Whether one was lost; waits a little, as its silence may be noticed before its end."""
        return self._gone.wait(1.0)

    def end(self) -> None:
        """Their ends are no news any more."""
        self._done.set()

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY):
            codes = [each.poll() for each in self.started]
            found = [(rank, code) for rank, code in enumerate(codes, 1) if code]
            if found:
                self._tell(*found[0])
                return

    def _tell(self, rank: int, code: int) -> None:
        how = f"with exit code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}"
            how += ", perhaps for want of memory" * (-code == signal.SIGKILL)
        count = len(self.started) + 1
        self.lost = f"process {rank + 1} of {count} has ended {how}; the same command resumes from the last saved epoch"
        self._gone.set()
        for each in self.started:
            each.kill()
        if not self._done.wait(GRACE):  # it waits on a GPU for a process that is gone
            sys.stderr.write(f"{self.name}: error: {self.lost}\n")
            sys.stderr.flush()
            os._exit(2)


def follow(name: str, main: Callable[[Follower, int, int, Path], None]) -> NoReturn:
    """Be a further process of a stage, as `crew` has started it, and exit.

    `main` works with (stage, number of this process, processes, folder in which they meet).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # number 0 answers a Ctrl-C, and ends this one
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    facts = files.read_json(folder / "facts.json")
    if os.getppid() != facts["parent"]:
        sys.exit(1)
    try:
        settings = params.load(folder / "params.json")
        determinism.prepare(settings.task.threads, settings.task.seed)
        main(Follower(name, facts, settings), rank, facts["count"], folder)
    except UserError as error:
        time.sleep(PATIENCE)
        sys.stderr.write(f"{name}: error: {error}\n")
        sys.exit(2)
    except Exception:
        told = traceback.format_exc()
        time.sleep(PATIENCE)
        sys.stderr.write(told)
        sys.exit(1)
    sys.exit(0)
