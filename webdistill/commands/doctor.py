"""python -m webdistill doctor --engine: check that every machine of the engine computes the same bytes."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Mapping
from pathlib import Path

from webdistill.core import files
from webdistill.engine import choice, machine, worker
from webdistill.harness import closure, params
from webdistill.harness.wording import plural

Facts = Mapping[str, str]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`doctor`"""
    command = commands.add_parser(
        "doctor", help="check that every machine of the engine computes the same bytes"
    )
    command.add_argument(
        "--engine", nargs="?", choices=choice.ENGINES, metavar="NAME",
        help=f"{', '.join(choice.ENGINES)}; default: what WEBDISTILL_ENGINE says",
    )  # fmt: skip
    command.set_defaults(run=lambda arguments: examine(arguments.engine or choice.chosen()))


def examine(engine: str) -> tuple[str, int]:
    """-> one line a fact, and 1 if some machine is not like this one."""
    import torch

    settings = params.load(Path("params.yaml"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    code = sorted(
        path.relative_to(closure.CODE).as_posix()
        for room in ("stages", "webdistill")
        for path in (closure.CODE / room).rglob("*.py")
    )
    order = {
        "root": str(Path.cwd()),
        "facts": {"device": device},
        "threads": settings.task.threads,
        "seed": settings.task.seed,
        "files": code,
        "precision": settings.raw["embed"]["precision"],
    }
    here = worker.describe(order)
    if engine != "ray":
        lines = [f"      {name:<16} {value}" for name, value in here.items()]
        return "\n".join([f"engine {engine}; {_ALONE[engine]}", *lines]), 0
    return _compare(here, _ask(order))


_ALONE = {
    "local": "this machine computes alone",
    "array": "each rank compares itself with the first one when it starts; this machine:",
}


def _ask(order: dict[str, object]) -> dict[str, Facts | str]:
    """-> of each machine of the cluster its facts, or why there are none."""
    from webdistill.engine.cluster import ask

    token = Path(".work") / f"doctor-{secrets.token_hex(8)}"
    token.mkdir(parents=True)
    try:
        (token / "word").write_text(token.name)
        return ask({**order, "token": str(token)})
    finally:
        files.remove(token)


def _compare(here: Facts, there: Mapping[str, Facts | str]) -> tuple[str, int]:
    lines = [f"engine ray, {plural(len(there), 'machine')}"]
    bad = [f"fail  {host:<16} {found}" for host, found in there.items() if isinstance(found, str)]
    for name, value in {"files": worker.SAME, **here}.items():
        wrong = [
            f"fail  {name:<16} {host}: {machine.difference({name: value}, found)}"
            for host, found in there.items()
            if not isinstance(found, str) and found.get(name) != value
        ]
        bad += wrong
        if not wrong:
            lines.append(f"ok    {name:<16} {value}")
    return "\n".join([*lines, *bad]), int(bool(bad))
