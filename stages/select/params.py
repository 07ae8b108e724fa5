"""Parameters of the select stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from webdistill.core.section import Section


class Select(Section):
    """Section `select:` of params.yaml."""

    @field_validator("budget", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        """`1` would pass as the share 1.0, all images."""
        if type(value) is int and value < 2:
            raise ValueError(
                f"budget = {value}: a count must be at least 2; write a share as a decimal, such as 1.0"
            )
        return value

    rule: Annotated[
        Literal["balanced", "confident", "random", "all"],
        Field(
            description="balanced: most confident of each pseudo-class, classes as even as can be; "
            "confident: most confident overall; random: seeded control; all: no selection"
        ),
    ]
    budget: Annotated[
        Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, le=1)],
        Field(
            description="images to select: 2 or more is a count, a decimal up to 1.0 a share "
            "(`all` ignores it)"
        ),
    ]
    source: Annotated[
        Literal["kept", "pool"],
        Field(
            description="kept: what the filter kept; pool: control, also what it dropped for quality or number; "
            "takedowns, opt-outs, licences, unsafe images and copies of test images stay out"
        ),
    ]
    allow_empty_classes: Annotated[
        bool, Field(description="go on when no image was selected for some of the classes")
    ]
    agree: Annotated[
        bool,
        Field(
            description="only images whose teacher class is the class their search keyword names"
        ),
    ]
