"""python -m webdistill: start a project, check it, inspect a pool, run stages, trace an image, show results."""

from __future__ import annotations

import argparse
import os
import sys

from webdistill.commands import (
    check,
    check_teacher,
    doctor,
    plan,
    pool_page,
    predict,
    results,
    track,
)
from webdistill.commands.fit import command as fit
from webdistill.commands.init import command as init
from webdistill.commands.provenance import command as provenance
from webdistill.commands.repro import command as repro
from webdistill.core.determinism import spin_briefly
from webdistill.core.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """-> exit code. A command's parser has `run`, which takes the arguments and gives text and exit code."""
    parser = argparse.ArgumentParser(prog="python -m webdistill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for each in (
        check,
        results,
        check_teacher,
        init,
        plan,
        fit,
        pool_page,
        predict,
        provenance,
        track,
        repro,
        doctor,
    ):
        each.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        text, code = arguments.run(arguments)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    _write(text)
    return int(code)


def _write(text: str) -> None:
    """A terminal that cannot show a letter gets its code; a reader that has seen enough (`| head`) is no error."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at exit


if __name__ == "__main__":
    spin_briefly()
    sys.exit(main())
