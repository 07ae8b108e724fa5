"""Names of settings: how many labelled images per class, and which fold is tested."""

from __future__ import annotations

import re

from webdistill.core.errors import UserError

SETTING = re.compile(r"n([0-9]+|all)_f([0-9]+)")


def parsed(setting: str, count: int) -> tuple[int | None, int]:
    """n5_f0 -> (5, 0), nall_f0 -> (None, 0). Raises UserError for anything else."""
    match = SETTING.fullmatch(setting)
    if match is None or int(match[2]) >= count:
        raise UserError(f"settings: '{setting}' is not n<count>_f<fold> with a fold below {count}")
    return (None if match[1] == "all" else int(match[1])), int(match[2])
