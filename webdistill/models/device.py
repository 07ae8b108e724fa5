"""Where networks run."""

from __future__ import annotations

from typing import Literal

import torch

from webdistill.core.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


def pick_device(wanted: Device, key: str) -> torch.device:
    """`auto` is cuda where there is one. Raises UserError, which names the key, when cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} = cuda, but torch sees no CUDA device; set it to auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
