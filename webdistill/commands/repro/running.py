"""Stages as processes: at most so many at once, told about on stderr, and none left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from webdistill.commands.repro.plan import Step
from webdistill.commands.repro.schedule import Schedule

POLL = 0.05  # seconds
SAY_EVERY = 30.0  # seconds between two looks at what runs
SHOWN = 40  # last lines of what a failed stage said
PATIENCE = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))  # and seconds each


@dataclass
class Process:
    """A stage that runs in a process group of its own: Ctrl-C reaches it through `stop` alone."""

    name: str
    folder: Path  # of the DVC project
    log: Path
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "webdistill.commands.repro.child",
            str(os.getpid()),
            str(self.folder),
            self.name,
        ]
        with self.log.open("wb") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        lines = [line.strip() for line in self.output().replace("\r", "\n").splitlines()]
        return next((line for line in reversed(lines) if line), "has no output yet")


def run(
    steps: Sequence[Step], jobs: int, logs: Path, *, folder: Path = Path(), keep_going: bool = False
) -> Schedule:
    """Run the steps of the project in `folder`, at most `jobs` at once; -> the schedule at its end

    What each says goes to `logs`. After a failure no step is started, with `keep_going` none of those after it. Ctrl-C
    and SIGTERM stop all.
    """
    logs.mkdir(parents=True, exist_ok=True)
    schedule, processes = Schedule(steps, keep_going), list[Process]()
    with _stopped_at_the_end(processes):
        said = time.monotonic()
        while True:
            while len(processes) < jobs and (name := schedule.next()) is not None:
                processes.append(Process(name, folder, logs / f"{_file_name(name)}.log"))
                say(f"{name} started")
            if not processes:
                return schedule
            time.sleep(POLL)
            for process in [p for p in processes if p.popen.poll() is not None]:
                processes.remove(process)
                schedule.end(process.name, success=process.popen.returncode == 0)
                _tell(process, schedule)
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                for process in processes:
                    say(f"{process.name} {clock(process.seconds)}: {process.last_line()}")


def _tell(process: Process, schedule: Schedule) -> None:
    left = f"; {schedule.left} left" if schedule.left else ""
    if process.popen.returncode:
        say(f"{process.name} FAILED after {clock(process.seconds)}{left}; {process.log} ends:")
        lines = process.output().splitlines()[-SHOWN:]
        sys.stderr.write("".join(f"    {line}\n" for line in lines))
    elif f"Running stage '{process.name}'" in process.output():
        say(f"{process.name} done in {clock(process.seconds)}{left}")
    else:
        say(f"{process.name} up to date or taken from the cache{left}")


@contextlib.contextmanager
def _stopped_at_the_end(processes: list[Process]) -> Iterator[None]:
    """Whatever ends the body, SIGTERM included, no process is left: asked, then told, then killed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        if processes:
            say(f"stopping {', '.join(process.name for process in processes)}")
        for number, seconds in PATIENCE:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.popen.pid, number)
            limit = time.monotonic() + seconds
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                for process in processes:
                    process.popen.wait(max(limit - time.monotonic(), 0.0))
        signal.signal(signal.SIGTERM, before)


def _file_name(stage: str) -> str:
    return stage.replace("/", "-").replace(":", "-")


def clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def say(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"repro: {message}\n")
    sys.stderr.flush()
