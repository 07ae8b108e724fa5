"""How many processes train together on this machine."""

from __future__ import annotations

import torch

from stages.distill.params import Distill
from webdistill.core.errors import UserError


def of_this_machine(settings: Distill, device: torch.device) -> int:
    """Processes of this run on this machine.

    Raises UserError when it has not so many GPUs, or when they cannot share the training.
    """
    wanted = settings.processes
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if wanted == "gpus":
        if not gpus:
            raise UserError(
                "distill.processes = gpus, but training is on the CPU; set it to a number"
            )
        wanted = gpus
    if 0 < gpus < wanted:
        raise UserError(
            f"distill.processes = {wanted}, but torch sees {gpus} CUDA device{'s' * (gpus > 1)}, one for each "
            "process; lower it, or set distill.device to cpu"
        )
    if trouble := settings.unshared(wanted):
        raise UserError(f"section 'distill': {trouble}")
    return wanted
