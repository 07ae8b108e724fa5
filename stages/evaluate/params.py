"""Parameters of the evaluate stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webdistill.core.section import Section


class Evaluate(Section):
    """How the student is measured and exported. Accuracy itself has no knobs."""

    calibration_bins: int = Field(
        description="equal-width confidence bins of the calibration error (15 is usual)",
        ge=2,
        le=100,
    )
    parity_images: int = Field(
        description="test images on which the ONNX export must agree with torch", ge=8, le=1000
    )
    int8_images: int = Field(
        description="pictures of the selection on which int8 is calibrated, and as many choose how; 0 = no int8",
        ge=0,
        le=10_000,
    )
    int8_max_loss: float = Field(
        description="accuracy that the int8 export may lose, beyond the test images' chance; 1 = any",
        ge=0,
        le=1,
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="of student and teacher; auto = cuda where there is one. Exports run on the CPU"
    )
