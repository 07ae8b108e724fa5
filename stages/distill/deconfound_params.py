"""Parameters of KDCI, which any method can have: the section `distill.deconfound`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from webdistill.core.section import Section
from webdistill.models.names import Attention, Fuse, Query


class DrawnSettings(Section):
    """Options of `deconfound.dictionary: drawn`."""

    images: Annotated[int, Field(ge=2, description="images drawn for a dictionary")]
    count: Annotated[int, Field(ge=2, description="N, number of prototypes")]
    dims: Annotated[int, Field(ge=1, description="PCA dimensions to cluster in")]
    start: Annotated[
        int, Field(ge=0, description="finished epochs before the first; raw until then")
    ]
    every: Annotated[int, Field(ge=1, description="epochs from one dictionary to the next")]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, value in (("count", self.count), ("dims", self.dims)):
            if value > self.images:
                raise ValueError(f"{name} = {value} is more than images = {self.images}; lower it")
        return self


class DeconfoundSettings(Section):
    """KDCI, for any method."""

    dictionary: Annotated[
        Literal["none", "prototypes", "drawn", "random", "constant"],
        Field(
            description="what all losses are compensated with: nothing, the prototypes of stage prototypes, "
            "those of images that the method makes, noise of equal size, or one trained bias per class (controls)"
        ),
    ]
    centre: Annotated[bool, Field(description="subtract the dictionary's mean from its vectors")]
    fuse: Annotated[Fuse, Field(description="s + W_z F, or W_h s + W_z F with a trained W_h")]
    attention: Annotated[
        Attention, Field(description="over prototypes; random: the same for every image")
    ]
    query: Annotated[Query, Field(description="what attends: the student's raw logits or features")]
    prior: Annotated[bool, Field(description="weight prototypes by their share of the images")]
    lr: Annotated[
        Annotated[float, Field(gt=0, le=10)] | None,
        Field(
            description="peak rate of the compensation's SGD, null = 1 where maps are learned, else 0.1"
        ),
    ]
    inference: Annotated[
        Literal["compensated", "raw"],
        Field(description="which answers the exported student gives"),
    ]
    drawn: Annotated[DrawnSettings, Field(description="options of dictionary drawn")]

    @property
    def enabled(self) -> bool:
        return self.dictionary != "none"
