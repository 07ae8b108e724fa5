"""Which engine computes. It decides no byte, so the environment says it and not params.yaml:

WEBDISTILL_ENGINE                  local (default), ray or array
RAY_ADDRESS                        HOST:PORT of a cluster's head; without it, the cluster that this machine is in
WEBDISTILL_RANK, WEBDISTILL_RANKS  of an array job; without them Slurm's own variables
"""

from __future__ import annotations

import os

from webdistill.core.errors import UserError

ENGINES = ("local", "ray", "array")
MAPPED = ("embed", "filter", "score")  # stages that compute shard by shard
SHARED = ("fetch", *MAPPED)  # and the one whose addresses are shared out by host


def chosen() -> str:
    """Raises UserError for a name that is none."""
    name = os.environ.get("WEBDISTILL_ENGINE") or "local"
    if name not in ENGINES:
        raise UserError(
            f"WEBDISTILL_ENGINE = {name!r} is no engine; known are {', '.join(ENGINES)}"
        )
    return name


def check(stage: str) -> str:
    """-> the engine. Raises UserError when this stage cannot run on it as it was started."""
    name = chosen()
    if name == "array":
        rank()
        if stage not in SHARED:
            raise UserError(
                f"stage '{stage}' has nothing to share out among ranks ({', '.join(SHARED)} have); unset "
                "WEBDISTILL_ENGINE and run it with `dvc repro`"
            )
        if "DVC_STAGE" in os.environ:
            raise UserError(
                f"a rank publishes nothing, so DVC cannot run it: start `python -m stages.{stage}` in the array job, "
                "then `dvc repro` without WEBDISTILL_ENGINE"
            )
    return name


def rank() -> tuple[int, int]:
    """(rank, ranks) of this process in its array job. Raises UserError where the environment does not say."""
    own = _number("WEBDISTILL_RANK"), _number("WEBDISTILL_RANKS")
    if own == (None, None):
        number, count = _number("SLURM_ARRAY_TASK_ID"), _number("SLURM_ARRAY_TASK_COUNT")
        first, step = _number("SLURM_ARRAY_TASK_MIN") or 0, _number("SLURM_ARRAY_TASK_STEP") or 1
        own = (None if number is None else (number - first) // step), count
    place, ranks = own
    if place is None or ranks is None or not 0 <= place < ranks:
        raise UserError(
            "WEBDISTILL_ENGINE = array: this process is not told which rank of how many it is; set WEBDISTILL_RANK "
            "(from 0) and WEBDISTILL_RANKS, or start it by `sbatch --array`"
        )
    return place, ranks


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{variable} = {text!r} is no number")
    return int(text)
