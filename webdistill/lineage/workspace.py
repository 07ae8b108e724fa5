"""python -m webdistill track: the workspace as it stands becomes an experiment, though nothing ran.

For outputs that DVC pulled, checked out or restored from its run cache. Each stage appears as a link to the run that
made its outputs; an experiment that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from webdistill.core import params, tracking
from webdistill.core.errors import UserError
from webdistill.core.tracking import Record
from webdistill.lineage import links

MOMENT = 60  # seconds that the command gives the tracking store
ABSENT = ("deleted", "not in cache")  # what dvc.lock names may be elsewhere: its hash is known


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands.add_parser(
        "track",
        help="show in MLflow what DVC pulled or restored: an experiment of links to the runs that made it",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def track(root: Path) -> tuple[str, int]:
    """-> what to say, and the exit code. Raises UserError when the workspace is not what dvc.lock describes."""
    from webdistill.lineage import flush

    spool = tracking.project_root(root) / ".work" / "spool"
    entry = record(root)
    tracking.spool(entry, spool)
    code = flush.main(["--folder", str(spool), "--wait", str(MOMENT)])
    name = tracking.run_name(entry, root)
    if code:
        return f"'{name}' waits in {spool} for the tracking store", code
    return f"'{name}' stands in MLflow with {len(links.read_lock(entry.lock))} stages", 0


def record(root: Path) -> Record:
    """What the workspace in `root` is. Raises UserError when something was changed and not run."""
    settings = params.load(root / "params.yaml").flat()
    lock, measured = tracking.locked(root)
    if not lock:
        raise UserError("there is no dvc.lock; run `dvc repro` first")
    _check(_status(root))
    now = time.time()
    return Record(
        stage="",
        parent_key=tracking.experiment_key(settings, root),
        parent_params=settings,
        params={},
        started=now,
        ended=now,
        status="FINISHED",
        lock=lock,
        measured=measured,
    )


def _status(root: Path) -> dict[str, list[Any]]:
    """`dvc status` of the main pipeline: {stage: [{"changed deps": {path: "modified"}}, ...]}"""
    command = [sys.executable, "-m", "dvc", "status", "--json", "dvc.yaml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        found: dict[str, list[Any]] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"`dvc status` failed and said: {said}") from None
    return found


def _check(status: dict[str, list[Any]]) -> None:
    for stage, entries in status.items():
        for entry in entries:
            if not isinstance(entry, dict):  # "changed command"
                raise UserError(f"stage '{stage}': {entry}; run `dvc repro` first")
            for changes in entry.values():
                for path, change in changes.items():
                    if change not in ABSENT:
                        told = ", ".join(change) if isinstance(change, dict) else change
                        raise UserError(
                            f"stage '{stage}' is not up to date: {path}: {told}; run `dvc repro` first, then track"
                        )
