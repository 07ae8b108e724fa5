"""Where bfloat16 arithmetic is faster than float32."""

from __future__ import annotations

import torch

from webdistill.models.names import Precision


def low_precision(wanted: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` = on CUDA, or on a processor with AMX.

    AVX512-BF16 without AMX multiplies in bfloat16, too, but was slower than float32 in eleven of twelve measurements
    (records/2026-11-29-precision).
    """
    if wanted != "auto":
        return wanted == "bfloat16"
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())
