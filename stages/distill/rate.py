"""How the rates go over a training; the further pipelines train with it, too."""

from __future__ import annotations

import math


def rate_factor(step: int, steps: int, warmup: int, decay: str) -> float:
    """Factor in [0, 1] of the rates: linear warm-up over `warmup` steps, then decay until `steps`.

    `cosine`: half a cosine down to 0. `steps`: times 0.1 after 62.5, 75 and 87.5 % of all steps (KD3, section 4.1).
    """
    if step < warmup:
        return (step + 1) / warmup
    if decay == "steps":
        return 0.1 ** sum(step >= share * steps for share in (0.625, 0.75, 0.875))
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
