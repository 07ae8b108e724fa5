"""Which files of this project decide what a stage writes: its own, what they import, what that imports, and so on.

Not followed are the rooms that only start, watch, schedule or record a run (`WATCHING`), and networks' families, of
which a stage uses those of its teacher and student alone (`webdistill.models.names.family_file`).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

CODE = Path(__file__).parents[2]  # where `stages` and `webdistill` are
PACKAGES = ("webdistill", "stages", "pipelines")
WATCHING = tuple(f"webdistill/{room}" for room in ("harness", "engine", "tracking", "commands"))
FAMILIES = "webdistill/models/families"


def of_stage(root: Path, name: str) -> list[Path]:
    """All code of a stage of the main pipeline, which is what `python -m stages.NAME` may run."""
    return sorted((root / "stages" / name).rglob("*.py"))


def closure(root: Path, start: Iterable[Path]) -> set[Path]:
    """The files and what they import below `root`, inside functions too, but for `WATCHING` and `FAMILIES`.

    A family is followed where it is among `start`, with those that it imports.
    """
    todo, seen = set(start), set[Path]()
    of_network = any(_inside(root, path, [FAMILIES]) for path in todo)
    while todo:
        path = todo.pop()
        seen.add(path)
        found = {p for p in imports(root, path) if not _inside(root, p, WATCHING)}
        if not (of_network and _inside(root, path, [FAMILIES])):
            found = {p for p in found if not _inside(root, p, [FAMILIES])}
        todo |= found - seen
    return seen


def families(*architectures: str) -> list[Path]:
    """The project's own files that make these networks, beyond what every network needs.

    `architectures`: names as in params.yaml. Raises UserError for a name that is none.
    """
    from webdistill.models.names import family_file

    found = closure(CODE, {CODE / family_file(name) for name in architectures})
    return sorted(path for path in found if path.is_relative_to(CODE / FAMILIES))


def _inside(root: Path, path: Path, places: Iterable[str]) -> bool:
    return any(path.is_relative_to(root / place) for place in places)


@cache
def imports(root: Path, path: Path) -> frozenset[Path]:
    """Files below `root` that a file imports anywhere."""
    return frozenset(file for name in _names(path) if (file := module_file(root, name)))


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_file(root: Path, name: str) -> Path | None:
    """The file of a module of this project; None for any other."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def digest(root: Path, paths: Iterable[Path]) -> str:
    """sha256 over names and bytes of these files below `root`."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
