"""Parameters of the filter stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from webdistill.core.params import Section

# Similarities below these would catch pictures that merely share a layout.
Similarity = Annotated[float, Field(ge=0.7, le=1.01)]


class Filter(Section):
    """Section `filter:` of params.yaml."""

    min_side: Annotated[
        int, Field(ge=1, description="shorter side, px; smaller images are dropped")
    ]
    max_aspect: Annotated[
        float,
        Field(ge=1, description="longer side / shorter side; more elongated ones are dropped"),
    ]
    min_contrast: Annotated[
        float,
        Field(
            ge=0,
            le=128,
            description="standard deviation of the luminance, grey levels; below it is blank",
        ),
    ]
    leak_similarity: Annotated[
        Similarity,
        Field(description="from here on an image counts as a copy of a test image (1.01 = never)"),
    ]
    min_score: Annotated[
        float,
        Field(
            ge=-1,
            le=1,
            description="CLIP cosine to the class the query names; depends on the CLIP model",
        ),
    ]
    min_margin: Annotated[
        float,
        Field(
            ge=-2,
            le=2,
            description="CLIP cosine to that class minus the best other one; depends on the model",
        ),
    ]
    duplicate_similarity: Annotated[
        Similarity,
        Field(
            description="from here on two images count as one, the better scored stays (1.01 = never)"
        ),
    ]
