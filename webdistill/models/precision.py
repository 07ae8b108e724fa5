"""Where bfloat16 arithmetic is faster than float32."""

from __future__ import annotations

import torch

from webdistill.models.names import Precision


def low_precision(wanted: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` = where the processor does, on CUDA or with AVX512-BF16."""
    if wanted != "auto":
        return wanted == "bfloat16"
    return device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
