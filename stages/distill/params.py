"""Parameters of the stage `distill`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from webdistill.core.errors import UserError
from webdistill.core.params import Section
from webdistill.models.names import Precision, parse


class Distill(Section):
    """Student, method and schedule."""

    method: Annotated[Literal["kd"], Field(description="distillation method")]
    student: Annotated[str, Field(description="architecture name, e.g. resnet8, wrn-16-1")]
    epochs: Annotated[int, Field(ge=1, le=10_000, description="passes over the selected images")]
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images per step")]
    lr: Annotated[
        float, Field(gt=0, le=10, description="peak learning rate of SGD; cosine decay to 0")
    ]
    warmup_epochs: Annotated[float, Field(ge=0, description="linear warm-up, epochs")]
    weight_decay: Annotated[
        float, Field(ge=0, le=1, description="L2 on matrices and kernels, not on BN or bias")
    ]
    temperature: Annotated[
        float, Field(gt=0, le=100, description="softens both distributions; loss times T^2")
    ]
    min_scale: Annotated[
        float, Field(gt=0, le=1, description="smallest area of a random crop, share of image")
    ]
    mixup: Annotated[
        float,
        Field(ge=0, le=1, description="each view mixes in up to half this share of another image"),
    ]
    views: Annotated[
        int,
        Field(
            ge=0,
            description="distinct views per image; the teacher answers each once. 0 = always new",
        ),
    ]
    precision: Annotated[
        Precision,
        Field(
            description="of the networks' arithmetic; auto: bfloat16 where the processor computes in it"
        ),
    ]
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = cuda where there is one")
    ]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} is more than epochs = {self.epochs}; lower it"
            )
        try:
            parse(self.student)
        except UserError as error:
            raise ValueError(f"student: {error}") from None
        return self
