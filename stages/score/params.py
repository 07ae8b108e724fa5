"""Parameters of the score stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from webdistill.core.section import Section


class Score(Section):
    """Section `score:` of params.yaml."""

    precision: Annotated[
        Literal["float32", "bfloat16"],
        Field(
            description="arithmetic of the convolutions, pooling and logits stay float32; bfloat16 is about twice as "
            "fast where the processor computes in it, many times slower elsewhere"
        ),
    ]
    batch_size: Annotated[
        int, Field(ge=1, le=65536, description="images per forward pass: memory against speed")
    ]
    other_image_size: Annotated[
        bool,
        Field(description="accept a teacher trained at another image size than task.image_size"),
    ]
