"""python -m webdistill.commands.stale: which stages dvc.lock in git is not the record of, and how to renew it.

For whoever changes the code: what others pull belongs to the code that they pull. Hashes only; nothing is run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from webdistill.core.errors import UserError
from webdistill.harness.dvc_status import changes

RENEW = "renew it: make repro, then git commit dvc.lock data/*/metrics.json"


def stale(root: Path) -> list[str]:
    """One line for each stage that would run again, and one that says what to do; one when all is well."""
    found: dict[str, list[str]] = {}
    for change in changes(root):
        found.setdefault(change.stage, []).append(change.what)
    if not found:
        return ["dvc.lock belongs to this code and these parameters"]
    lines = [f"dvc.lock is stale: {stage}: {'; '.join(what)}" for stage, what in found.items()]
    return [*lines, RENEW]


def main(argv: list[str] | None = None) -> int:
    """-> 0; 2 when DVC cannot tell"""
    argparse.ArgumentParser(
        prog="python -m webdistill.commands.stale", description=__doc__
    ).parse_args(argv)
    try:
        lines = stale(Path.cwd())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
