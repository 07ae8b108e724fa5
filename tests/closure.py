"""Which files of this project a program imports, and which of them a stage of a dvc.yaml does not name."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("webdistill", "stages", "pipelines")
GLUE = {ROOT / package / "__init__.py" for package in PACKAGES} | {
    ROOT / "webdistill/_torchvision.py"
}


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def imports(path: Path) -> set[Path]:
    """Files of this project that a file imports anywhere, functions included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {f for n in names if n.split(".")[0] in PACKAGES and (f := module_file(n))}
    return found


def closure(start: Iterable[Path]) -> set[Path]:
    """The files, what they import, what that imports, and so on."""
    todo, seen = set(start), set[Path]()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo |= imports(path)
    return seen


def of_stage(name: str) -> set[Path]:
    """All code of a stage of the main pipeline, which is what `python -m stages.NAME` may run."""
    return set((ROOT / "stages" / name).rglob("*.py"))


def covered(path: str | Path, deps: Collection[str]) -> bool:
    """Is the path, relative to the root, a dependency or inside one?"""
    return any(Path(path).is_relative_to(dep) for dep in deps)


def outside(start: Iterable[Path], deps: Collection[str]) -> list[str]:
    """Files of the closure, relative to the root, that no dependency covers and that hold code."""
    named = {path: path.relative_to(ROOT).as_posix() for path in closure(start) - GLUE}
    return sorted(name for path, name in named.items() if not covered(name, deps) and _code(path))


@cache
def _code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
