"""Parameters of the stage `distill`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from webdistill.core.params import Section


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
        Literal["float32", "bfloat16"], Field(description="of the networks' arithmetic")
    ]
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = cuda where there is one")
    ]
