"""How a program of a study starts and ends.

    def main(settings: Mapping[str, Any], domain: str) -> None: ...

    if __name__ == "__main__":
        run_study(main, argument("domain", help="of the student"))

The docstring of the module that defines `main` is what --help shows. A UserError ends the program with one line on
stderr and exit code 2. It ends with DVC, or whoever else started it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from webdistill.core.errors import UserError
from webdistill.harness.lifetime import die_with_parent
from webdistill.harness.params import read_yaml


class Argument(NamedTuple):
    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """One argument of the command line, as argparse's add_argument takes it."""
    return Argument(names, options)


def run(main: Callable[..., None], *arguments: Argument) -> NoReturn:
    """Call `main` with the command line's arguments by their names, and exit."""
    parser = argparse.ArgumentParser(
        description=sys.modules[main.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for each in arguments:
        parser.add_argument(*each.names, **each.options)
    given = vars(parser.parse_args())
    die_with_parent()
    try:
        main(**given)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)
    sys.exit(0)


def run_study(main: Callable[..., None], *arguments: Argument) -> NoReturn:
    """`run`, where `main` gets the params.yaml beside its module before the arguments."""
    folder = Path(inspect.getfile(main)).parent

    def with_settings(**given: Any) -> None:
        main(read_yaml(folder / "params.yaml"), **given)

    with_settings.__module__ = main.__module__
    run(with_settings, *arguments)


def say(text: str) -> None:
    """One line on stderr, after the program's name."""
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)
