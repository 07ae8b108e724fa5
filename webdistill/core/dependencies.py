"""What a stage reads must stand in dvc.yaml, or DVC would not notice that it changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.core.params import read_yaml


def declared(root: Path, stage: str, raw: Mapping[str, Any]) -> list[str] | None:
    """The stage's dependencies with `${section.key}` filled in; None when dvc.yaml has no such stage."""
    path = root / "dvc.yaml"
    spec = read_yaml(path)["stages"].get(stage) if path.is_file() else None
    if spec is None:
        return None

    def value(match: re.Match[str]) -> str:
        section, _, key = match[1].partition(".")
        return str(raw[section][key])

    return [re.sub(r"\$\{([\w.]+)\}", value, dep) for dep in spec["deps"]]


def check_declared(root: Path, stage: str, path: Path, raw: Mapping[str, Any]) -> None:
    """Raises UserError when DVC runs this stage and `path` lies in none of its dependencies."""
    if os.environ.get("DVC_STAGE") != stage:
        return
    deps = declared(root, stage, raw)
    full = (root / path).resolve()
    if deps is None or any(full.is_relative_to((root / dep).resolve()) for dep in deps):
        return
    raise UserError(
        f"stage '{stage}' reads {path}, which is none of its deps in dvc.yaml; add it there, so that DVC "
        "notices when it changes"
    )
