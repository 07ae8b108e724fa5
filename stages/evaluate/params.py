"""Parameters of the evaluate stage."""

from __future__ import annotations

from pydantic import Field

from webdistill.core.params import Section


class Evaluate(Section):
    """How the student is measured. Accuracy itself has no knobs."""

    calibration_bins: int = Field(
        description="equal-width confidence bins of the calibration error (15 is usual)",
        ge=2,
        le=100,
    )
    parity_images: int = Field(
        description="test images on which the ONNX export must agree with torch", ge=8, le=1000
    )
