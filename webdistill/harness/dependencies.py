"""What a stage reads must stand in dvc.yaml, or DVC would not notice that it changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.harness.params import read_yaml


def declared(root: Path, stage: str, raw: Mapping[str, Any]) -> list[str] | None:
    """The stage's dependencies with `${section.key}` filled in; None when dvc.yaml has no such stage."""
    path = root / "dvc.yaml"
    spec = read_yaml(path)["stages"].get(stage) if path.is_file() else None
    if spec is None:
        return None

    def value(match: re.Match[str]) -> str:
        found: Any = raw
        for key in match[1].split("."):
            found = found[key]
        return str(found)

    return [re.sub(r"\$\{([\w.]+)\}", value, dep) for dep in spec["deps"]]


def check_declared(root: Path, stage: str, paths: Iterable[Path], raw: Mapping[str, Any]) -> None:
    """Raises UserError when DVC runs this stage and some of the `paths` lie in none of its dependencies."""
    if os.environ.get("DVC_STAGE") != stage:
        return
    deps = declared(root, stage, raw)
    if deps is None:
        return
    named = [(root / dep).resolve() for dep in deps]
    lacking = [
        str(path)
        for path in paths
        if not any((root / path).resolve().is_relative_to(dep) for dep in named)
    ]
    if not lacking:
        return
    one = len(lacking) == 1
    raise UserError(
        f"stage '{stage}' reads {' and '.join(lacking)}, which {'is' if one else 'are'} none of its deps in dvc.yaml; "
        f"add {'it' if one else 'them'} there, so that DVC notices when {'it changes' if one else 'they change'}"
    )
