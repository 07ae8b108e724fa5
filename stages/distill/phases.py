"""Checkpoints at the ends of a method's phases. They outlive the run: a later phase can be run again with new settings.

Each lies under a key of all that decides it: code, inputs, device, and the settings but for those of which the method
says that they decide nothing so early (`Method.undecided`). Cells that differ in these alone share them. A phase that
learns from the teacher alone is shared by runs on other images as well (`Method.needs_images`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from stages.distill import ranks
from stages.distill.loop import Run
from stages.distill.params import Distill
from webdistill.harness.stage import Stage

IMAGES = ("select/selection.parquet", "fetch/pool")  # inputs that say which images there are
MOST = 16  # checkpoints kept, the latest used
STALE = 3600.0  # seconds after which an unfinished one has no writer


def places(stage: Stage, run: Run) -> dict[int, Path]:
    """Finished epochs at the end of every phase but the last -> its checkpoint, whether there or not."""
    found: dict[int, Path] = {}
    for phase, end in enumerate(list(accumulate(run.phases))[:-1]):
        if end and end not in found:  # an empty phase adds nothing
            found[end] = _place(stage, run, phase)
    return found


def _place(stage: Stage, run: Run, phase: int) -> Path:
    blind = sum(run.phases[: phase + 1]) <= run.blind
    undecided = run.method.undecided(phase)
    facts = (
        stage.code_digest(),
        {key: value for key, value in _settings(run.settings).items() if key not in undecided},
        stage.task.model_dump(include={"seed", "threads", "classes", "image_size"}),
        sorted(
            each for name, each in stage.inputs.items() if not (blind and name.endswith(IMAGES))
        ),
        run.steps_per_epoch,
        (str(run.device), run.forward.low_precision, ranks.count()),
        torch.__version__,
    )
    key = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:24]
    folder = stage.root / ".work" / "phases"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{run.settings.method}-{phase}-{key}.pt"


def _settings(settings: Distill) -> dict[str, Any]:
    """Every setting by its key, such as "lr" and "deconfound.prior", but for options of methods not chosen."""
    found: dict[str, Any] = {}
    for name, value in settings.decisive().items():
        inner = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}.{key}": each for key, each in inner} or {name: value}
    return found


def latest(found: dict[int, Path]) -> Path | None:
    """The checkpoint of the latest phase that is there; counts as used from now on."""
    for _, path in sorted(found.items(), reverse=True):
        with contextlib.suppress(
            FileNotFoundError
        ):  # not there, or another run has just removed it
            os.utime(path)
            return path
    return None


def forget(found: dict[int, Path]) -> None:
    """Remove all checkpoints but the MOST used last, and what killed runs left half-written."""
    for folder in {path.parent for path in found.values()}:
        for path in _by_use(folder, "*.pt")[MOST:]:
            path.unlink(missing_ok=True)
        for path in _by_use(folder, "*.tmp", older_than=time.time() - STALE):
            path.unlink(missing_ok=True)


def _by_use(folder: Path, pattern: str, older_than: float = math.inf) -> list[Path]:
    """Files used before `older_than`, the latest first; other runs may remove some at any time."""
    used = {}
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            used[path] = path.stat().st_mtime
    return sorted((path for path in used if used[path] < older_than), key=lambda path: -used[path])
