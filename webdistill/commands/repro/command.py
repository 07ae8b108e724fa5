"""`python -m webdistill repro`: its arguments, and what is said before and after."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from webdistill.commands.repro import plan
from webdistill.commands.repro.running import clock, run, say
from webdistill.core.errors import UserError
from webdistill.harness.wording import plural

FLUSH_SECONDS = 60

DESCRIPTION = """\
What `dvc repro` does, with up to N independent stages or cells of a matrix side by side, each through
`dvc repro --single-item`: the same dvc.lock, cache and run cache. The output of a stage goes to .work/repro/<stage>.log
and is shown if it fails.

task.threads is a parameter that results depend on and is not divided: with -j 2, two stages have that many threads
each. Several experiments run at once with `dvc exp run --queue` and `dvc queue start -j 2`.

Exit code: 0 done, 1 a stage failed, 2 bad input, 130 stopped by Ctrl-C."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "repro",
        help="like `dvc repro`, with independent stages side by side",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "targets",
        nargs="*",
        help="stages or dvc.yaml files, as for `dvc repro`, also of a study, as pipelines/compare/dvc.yaml; "
        "default: dvc.yaml",
    )
    add("-j", "--jobs", type=int, default=1, metavar="N", help="stages at once; default: 1")
    add(
        "-k",
        "--keep-going",
        action="store_true",
        help="after a failure, continue with stages that do not depend on it",
    )
    parser.set_defaults(run=repro)


def repro(arguments: argparse.Namespace) -> tuple[str, int]:
    """-> what to say at the end, and the exit code."""
    if arguments.jobs < 1:
        raise UserError(f"-j is {arguments.jobs}; it must be 1 or more")
    try:
        return _repro(arguments.targets, arguments.jobs, arguments.keep_going)
    except KeyboardInterrupt:
        return "stopped; finished stages are kept, and the next run resumes from there", 130


def mend_locks(path: Path) -> None:
    """Remove DVC's table of paths in use where a kill has left it so that DVC would refuse to run.

    Half written: DVC writes it in place, so it is looked at twice, another DVC may be writing at this moment. Or held
    by zombies alone, which DVC takes for running: in a container whose first process adopts no orphans, they stay.
    """
    for wait in (0.5, 0.0):
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(wait)
            continue
        readers = itertools.chain.from_iterable(table.get("read", {}).values())
        holders = {holder["pid"] for holder in (*table.get("write", {}).values(), *readers)}
        if holders and all(_is_zombie(pid) for pid in holders):
            path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)
    say(f"{path} was left half written by a killed run; it is removed")


def _is_zombie(pid: int) -> bool:
    """Ended, and its exit code not taken (Linux only)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "Z"


def _repro(targets: Sequence[str], jobs: int, keep_going: bool) -> tuple[str, int]:
    begun = time.monotonic()
    folder, targets = plan.project(targets)
    mend_locks(folder / ".dvc/tmp/rwlock")
    steps = plan.plan(targets, folder)
    todo = plan.to_do(steps)
    if not todo:
        return f"nothing to do: all {len(steps)} stages are up to date", 0
    say(f"{len(todo)} of {plural(len(steps), 'stage')} to look at, {jobs} at once")
    ended = run(todo, jobs, Path(".work/repro"), folder=folder, keep_going=keep_going)
    # as `make repro` does: what still waits to be tracked; what does not get through goes another time
    flush = [sys.executable, "-m", "webdistill.tracking.flush", "--wait", str(FLUSH_SECONDS)]
    subprocess.run(flush, check=False)
    took = clock(time.monotonic() - begun)
    if not ended.failed:
        return f"{plural(len(ended.done), 'stage')} in {took}", 0
    rest = f", {ended.left} not started" if ended.left else ""
    return f"{', '.join(ended.failed)} failed, {len(ended.done)} done{rest}, in {took}", 1
