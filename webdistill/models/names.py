"""Names in parameters, understood without importing torch: a mistyped one stops before any work."""

from __future__ import annotations

import re
from typing import Literal

from webdistill.core.errors import UserError

Family = Literal["small", "big", "wide"]
Precision = Literal["auto", "float32", "bfloat16"]
BIG = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}  # blocks per stage, widths 64-128-256-512
EXAMPLES = "resnet8, resnet20, resnet56, resnet18, resnet34, wrn-16-1, wrn-16-2, wrn-40-2"


def parse(architecture: str) -> tuple[Family, tuple[int, ...]]:
    """`resnet20` -> ("small", blocks per stage), `wrn-16-2` -> ("wide", (depth, widen)). Else UserError."""
    if architecture in BIG:
        return "big", BIG[architecture]
    if match := re.fullmatch(r"resnet(\d{1,4})", architecture):
        depth = int(match[1])
        if depth >= 8 and (depth - 2) % 6 == 0:
            return "small", ((depth - 2) // 6,) * 3
    if match := re.fullmatch(r"wrn-(\d{1,4})-(\d{1,2})", architecture):
        depth, widen = int(match[1]), int(match[2])
        if depth >= 10 and (depth - 4) % 6 == 0 and widen >= 1:
            return "wide", (depth, widen)
    raise UserError(f"unknown architecture {architecture!r}; examples: {EXAMPLES}")
