"""Stages whose last finished run is not of today's parameters, code and inputs: at a glance, without asking DVC.

A run that failed or was killed leaves dvc.lock, and the outputs of later stages, as they were. `dvc status` looks into
everything, which takes seconds; this takes a tenth of one, and does not look into large files and folders of data.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.harness import dvc_lock
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.dvc_status import CODE
from webdistill.harness.params import read_yaml

PATIENCE = 0.5  # seconds that a DVC which writes is waited for
SMALL = 1 << 20  # bytes of a file that is read; of larger ones the size is compared


def behind(root: Path) -> list[str]:
    """Names of the stages that would run first. Raises UserError when dvc.lock or params.yaml cannot be read.

    Without a dvc.lock nobody can tell, and there are none.
    """
    lock = root / "dvc.lock"
    try:
        recorded = dvc_lock.stages(dvc_lock.read_lock(lock, root, PATIENCE))
    except ValueError as error:
        raise UserError(f"{lock} is no YAML ({error}); git has the last good one") from None
    made = {path: one for stage in recorded.values() for path, one in _files(stage, "outs")}
    same = functools.cache(functools.partial(_same, root))
    found = []
    for name, stage in recorded.items():
        inputs = _files(stage, "deps")
        if not (
            _has_values(root, stage.get("params", {}))
            and all(one == made[path] if path in made else same(path, *one) for path, one in inputs)
        ):
            found.append(name)
    return found


def _files(stage: Mapping[str, Any], kind: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Path -> md5 and size."""
    for one in stage.get(kind, []):
        yield one["path"], (one.get("md5", ""), one.get("size", ""))


def _same(root: Path, path: str, md5: str, size: str) -> bool:
    """Whether an input that no stage makes is what the stage read; what is absent, or large, may be."""
    place = root / path
    if path.startswith(CODE):
        return place.exists() and dvc_hash(place, root) == md5
    if not place.is_file():
        return True
    length = place.stat().st_size
    return str(length) == size and (length > SMALL or dvc_hash(place, root) == md5)


def _has_values(root: Path, params: Mapping[str, Mapping[str, Any]]) -> bool:
    for file, recorded in params.items():
        values = read_yaml(root / file)
        for key, then in recorded.items():
            now = values
            for part in key.split("."):
                now = now.get(part) if isinstance(now, Mapping) else None
            if not _is(now, then):
                return False
    return True


def _is(now: object, then: object) -> bool:
    """Whether a value is what dvc.lock has, where every scalar is text."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return now.keys() == then.keys() and all(_is(now[key], then[key]) for key in now)
    if isinstance(now, list) and isinstance(then, list):
        return len(now) == len(then) and all(map(_is, now, then))
    if not isinstance(then, str):
        return False
    if now is None:
        return then in ("", "null", "~")
    if isinstance(now, bool):
        return then == str(now).lower()
    if isinstance(now, int | float):
        try:
            return float(then) == now
        except ValueError:
            return False
    return now == then
