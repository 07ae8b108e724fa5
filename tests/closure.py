"""Which files of this project a program imports, and which of them a stage of a dvc.yaml does not name."""

from __future__ import annotations

import ast
import os.path
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from webdistill.harness import closure as of_files

ROOT = Path(__file__).parents[1]
GLUE = {ROOT / package / "__init__.py" for package in of_files.PACKAGES} | {
    ROOT / "webdistill/_torchvision.py"
}


def module_file(name: str) -> Path | None:
    return of_files.module_file(ROOT, name)


def closure(start: Iterable[Path]) -> set[Path]:
    """The files that decide bytes among the files, what they import, what that imports, and so on."""
    return of_files.closure(ROOT, start)


def of_stage(name: str) -> set[Path]:
    """All code of a stage of the main pipeline, which is what `python -m stages.NAME` may run."""
    return set(of_files.of_stage(ROOT, name))


def covered(path: str | Path, deps: Collection[str]) -> bool:
    """Is the path, relative to the root, a dependency or inside one?"""
    return any(Path(path).is_relative_to(dep) for dep in deps)


def from_root(study: str, dep: str) -> str:
    """A path in pipelines/<study>/dvc.yaml as seen from the root; pipelines/.code is a folder of links to the code."""
    path = os.path.normpath(f"pipelines/{study}/{dep}")
    return path.removeprefix("pipelines/.code/")


def outside(start: Iterable[Path], deps: Collection[str]) -> list[str]:
    """Files of the closure, relative to the root, that no dependency covers and that hold code."""
    named = {path: path.relative_to(ROOT).as_posix() for path in closure(start) - GLUE}
    return sorted(name for path, name in named.items() if not covered(name, deps) and _code(path))


@cache
def _code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
