"""Experiments kept for comparison: `experiments/<name>.json`, one small file each, in git and not in DVC's cache.

A report must be a function of its inputs, so it cannot ask MLflow or the git history what was there before. What it is
to compare with is therefore a file that someone has kept on purpose: `python -m webdistill results --keep NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.core.files import digest, read_json, write_json
from webdistill.harness import params

FOLDER = "experiments"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEYS = {"params", "figures", "student", "tests"}


@dataclass(frozen=True)
class Kept:
    """One experiment: its parameters as text, its figures on the test set, and which test set that was."""

    name: str
    params: Mapping[str, str]  # "distill.epochs" -> "60"
    figures: Mapping[str, float]  # of data/evaluate/metrics.json
    student: str  # architecture
    tests: str  # sha256 of the test images


def keep(root: Path, name: str) -> Path:
    """Write the last run below `root` to `experiments/<name>.json`; an experiment is never overwritten. -> the file"""
    if not NAME.fullmatch(name):
        raise UserError(
            f"'{name}' cannot name an experiment: letters, digits, '.', '_' and '-' only, 64 at most"
        )
    path = root / FOLDER / f"{name}.json"
    if path.exists():
        raise UserError(f"{path} is there already; choose another name or remove it")
    settings = params.load(root / "params.yaml")
    _check_ran(root / "dvc.lock", settings.raw)
    student = read_json(root / "data/distill/student/config.json")
    value = {
        "params": settings.flat(),
        "figures": read_json(root / "data/evaluate/metrics.json"),
        "student": student["architecture"],
        "tests": digest(root / settings.task.test_images),
    }
    path.parent.mkdir(exist_ok=True)
    write_json(value, path)
    return path


def _check_ran(lock: Path, present: Mapping[str, Any]) -> None:
    """Raises UserError where a parameter differs from what the lock file has of the last run."""
    if not lock.is_file():  # stages were run by hand
        return
    for name, stage in params.read_yaml(lock)["stages"].items():
        for key, ran in stage.get("params", {}).get("params.yaml", {}).items():
            now: Any = present
            for part in key.split("."):
                now = now.get(part) if isinstance(now, Mapping) else None
            if now != ran:
                where, mine, its = _first_difference(key, now, ran)
                raise UserError(
                    f"{where} = {mine}, but stage '{name}' last ran with {its}; run `dvc repro` first"
                )


def _first_difference(key: str, now: Any, ran: Any) -> tuple[str, Any, Any]:
    """The first inner key with different values, with both."""
    if isinstance(now, Mapping) and isinstance(ran, Mapping):
        for inner in [*now, *ran]:
            if now.get(inner) != ran.get(inner):
                return _first_difference(f"{key}.{inner}", now.get(inner), ran.get(inner))
    return key, now, ran


def read_kept(folder: Path) -> list[Kept]:
    """All kept experiments by name. Raises UserError naming a file that is none."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Kept:
    value: Any = read_json(path)
    whole = isinstance(value, dict) and value.keys() >= KEYS
    if not whole or not {"top1", "agreement", "parameters"} <= value["figures"].keys():
        raise UserError(
            f"{path} is no kept experiment; remove it, or write it by `python -m webdistill results --keep NAME`"
        )
    return Kept(path.stem, **{key: value[key] for key in KEYS})


def differences(mine: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Parameters whose value differs, with the other's ('' where it has none), but for those of the report."""
    keys = sorted(mine.keys() | other.keys())
    return {
        key: other.get(key, "")
        for key in keys
        if not key.startswith("report.") and mine.get(key) != other.get(key)
    }
