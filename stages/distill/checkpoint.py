"""A run on the disk: everything that its next epoch depends on, in one file that a kill never leaves half-written.

What is computed again is not saved: randomness, which follows from seed and epoch, and the teacher's answers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stages.distill.loop import Run
from webdistill.core.files import replace

BLIND: dict[str, Any] = {"blind": True, "moments": [], "history": {"rows": [], "kept": []}}


def save(run: Run, path: Path, *, without_images: bool = False) -> None:
    """Write the run's state to `path`: a kill leaves the old file or the new one.

    `without_images`: leave out what the run noted about its images, so that runs on others can continue from it.
    Raises OSError for a full disk.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # cells may save the same phase at once
    try:
        torch.save(_state(run) | (BLIND if without_images else {}), temporary)
    except RuntimeError as error:  # torch's word for a full disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    else:
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(run: Run, path: Path) -> int:
    """Let a fresh run continue the saved one. -> number of finished epochs"""
    return take(run, read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU: an error of reading is then none of the GPU's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that are none of ours: the error says enough
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def take(run: Run, state: Mapping[str, Any]) -> int:
    """The same as `restore` with a state that was read before."""
    run.method.load_state_dict(state["method"])
    for optimiser, saved in zip(run.descent.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    run.rows, run.moments.made = state["rows"], state["moments"]
    run.history.rows = state["history"]["rows"]
    run.history.kept = [each.cpu() for each in state["history"]["kept"]]
    run.feed.passes, run.history.empty = state["passes"], state["empty_choices"]
    if state["blind"]:
        run.note_images()
    return len(run.rows)


def _state(run: Run) -> dict[str, Any]:
    return {
        "blind": False,
        "method": run.method.state_dict(),
        "optimisers": [each.state_dict() for each in run.descent.optimisers],
        "rows": run.rows,
        "moments": run.moments.made,
        "history": {"rows": run.history.rows, "kept": run.history.kept},
        "passes": run.feed.passes,
        "empty_choices": run.history.empty,
    }
