"""Parameters of the prototypes stage."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from webdistill.core.section import Section


class Prototypes(Section):
    """Section `prototypes:` of params.yaml."""

    space: Annotated[
        Literal["features", "logits"],
        Field(description="what is clustered: the teacher's pooled features or logits"),
    ]
    count: Annotated[int, Field(ge=2, le=65536, description="N, number of prototypes")]
    dims: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="PCA dimensions to cluster in, at most the width of the space",
        ),
    ]
    iterations: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="most k-means iterations; it stops earlier when no image moves",
        ),
    ]
    sample: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(
            description="images that PCA and k-means learn from; null = all. All are assigned in any case"
        ),
    ]

    @model_validator(mode="after")
    def _enough(self) -> Self:
        for name, least in (("count", self.count), ("dims", self.dims)):
            if self.sample is not None and self.sample < least:
                raise ValueError(
                    f"sample = {self.sample} is less than {name} = {least}; raise it, or null for all images"
                )
        return self
