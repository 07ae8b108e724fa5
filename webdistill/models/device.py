"""Where networks run."""

from __future__ import annotations

from itertools import chain
from typing import Literal

import torch
from torch import nn

from webdistill.core.errors import UserError

Device = Literal["auto", "cpu", "cuda"]


def pick_device(wanted: Device, key: str) -> torch.device:
    """`auto` is cuda where there is one. Raises UserError, which names the key, when cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} = cuda, but torch sees no CUDA device; set it to auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def device_of(net: nn.Module) -> torch.device:
    """Where its tensors are; the CPU for a network without any, such as one that asks another program."""
    tensors = chain(net.parameters(), net.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
