"""python -m webdistill track: the workspace as it stands becomes an experiment, though nothing ran.

For outputs that DVC pulled, checked out or restored from its run cache. Each stage appears as a link to the run that
made its outputs; an experiment that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.harness import params, spool
from webdistill.harness.dvc_status import changes
from webdistill.harness.records import Workspace
from webdistill.harness.wording import plural
from webdistill.tracking import links

MOMENT = 60  # seconds that the command gives the tracking store


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "track",
        help="record in MLflow what DVC pulled or restored, as links to the runs that made it",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=lambda _: track(Path.cwd()))


def track(root: Path) -> tuple[str, int]:
    """-> what to say, and the exit code. Raises UserError when the workspace is not what dvc.lock describes."""
    from webdistill.tracking import flush

    if spool.switched_off():
        raise UserError("WEBDISTILL_TRACKING=off is set; unset it")
    folder = spool.project_root(root) / ".work" / "spool"
    entry = record(root)
    spool.write(entry, folder)
    code = flush.main(["--folder", str(folder), "--wait", str(MOMENT)])
    name = spool.run_name(entry)
    if code:
        return f"'{name}' waits in {folder} for the tracking store", code
    return f"'{name}' stands in MLflow with {plural(len(links.read_lock(entry.lock)), 'stage')}", 0


def record(root: Path) -> Workspace:
    """What the workspace in `root` is. Raises UserError when something was changed and not run."""
    settings = params.load(root / "params.yaml").flat()
    lock, measured = spool.locked(root)
    if not lock:
        raise UserError("there is no dvc.lock; run `dvc repro` first")
    ran = links.read_lock(lock)
    for change in changes(root):
        why = f"is not up to date: {change.what}" if change.stage in ran else "has not run"
        raise UserError(f"stage '{change.stage}' {why}; run `dvc repro` first, then track")
    now = time.time()
    return Workspace(
        parent_key=spool.experiment_key(settings, root),
        parent_params=settings,
        started=now,
        ended=now,
        lock=lock,
        measured=measured,
    )
