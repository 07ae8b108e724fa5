"""What dvc.lock says about an input. DVC checks out a damaged cache object without complaint and then calls it up to
date, so a stage that DVC runs compares what it reads with what was recorded when it was made."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.harness import dvc_lock
from webdistill.harness.dvc_hash import dvc_hash


def check_recorded(root: Path, path: Path, *, listed: bool = False) -> None:
    """Raises UserError when DVC runs this stage and `path` differs from what another stage made.

    `listed`: the files of the folder were compared with its manifest, so only the manifest is left to look at.

    Found in the dvc.lock of any folder from `root` down to that of `path`, as an output or inside one. What no lock
    names is the user's own, a dependency that DVC watches, or this stage's own output. Run by hand, without DVC, a
    stage may read what it likes.
    """
    running = os.environ.get("DVC_STAGE")
    if running is None:
        return
    full = Path(os.path.normpath(root / path))  # not resolved: it may be a link into the cache
    for folder in reversed([p for p in full.parents if p.is_relative_to(root)]):
        for (stage, out), expected in _outs(folder / "dvc.lock", root).items():
            if stage == running.rpartition(":")[2] or not full.is_relative_to(out):
                continue
            if (
                listed and full != out
            ):  # part of a larger output, which is not read for its manifest alone
                return
            if (found := dvc_hash(out, root) if listed else _afresh(out, root)) != expected:
                raise UserError(
                    f"{out.relative_to(root)} is not what stage '{stage}' made: its md5 is {found}, dvc.lock says "
                    f"{expected}; docs/team.md, 'Damaged files', describes how to recover it"
                )
            return


@functools.cache  # a stage reads several files of one folder, as of a pool that cells share
def _afresh(out: Path, root: Path) -> str:
    return dvc_hash(out, root, afresh=True)


@functools.cache
def _outs(lock: Path, root: Path) -> dict[tuple[str, Path], str]:
    """(stage, output) -> md5. Outputs are given from the lock's folder, as all pipelines here do."""
    home = next((folder for folder in lock.parents if (folder / ".dvc").is_dir()), root)
    try:
        stages = dvc_lock.stages(dvc_lock.read_lock(lock, home))
    except ValueError as error:
        raise UserError(f"{lock} is no YAML ({error}); git has the last good one") from None
    found = {}
    for stage, spec in stages.items():
        for out in spec.get("outs", []):
            if out.get("hash") == "md5":
                found[stage, lock.parent / out["path"]] = out["md5"]
    return found
