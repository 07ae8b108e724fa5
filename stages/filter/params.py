"""Parameters of the filter stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.filter.licences import licence_code
from webdistill.core.section import Section

# Similarities below these would catch pictures that merely share a layout.
Similarity = Annotated[float, Field(ge=0.7, le=1.01)]
# A number, or a percentile of what pictures reach under a keyword that is not theirs.
Percent = Annotated[str, Field(pattern=r"^(100|\d{1,2}(\.\d+)?)%$")]
# Null asks nothing; what a list does not state is not asked either.
Probability = Annotated[float | None, Field(ge=0, le=1)]


class Filter(Section):
    """Section `filter:` of params.yaml."""

    max_unsafe: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="probability that an image is one of embed.unsafe_texts; above it is dropped (1 = never)",
        ),
    ]
    max_punsafe: Annotated[
        Probability, Field(description="the list's punsafe (LAION); above it is dropped")
    ]
    max_nsfw: Annotated[
        Probability,
        Field(
            description="the list's NSFW (words as UNLIKELY 0, UNSURE 0.5, NSFW 1) or NSFW score; above is dropped"
        ),
    ]
    leak_similarity: Annotated[
        Similarity,
        Field(description="from here on an image counts as a copy of a test image (1.01 = never)"),
    ]
    licences: Annotated[
        tuple[str, ...],
        Field(description="allowed ones in any spelling (cc0, pdm, by, by-sa); none named = all"),
    ]
    unknown_licence: Annotated[
        Literal["keep", "drop"], Field(description="images whose source states no licence")
    ]
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
    min_entropy: Annotated[
        float,
        Field(
            ge=0,
            le=8,
            description="entropy of the luminance's histogram, bits; below it there is little in it (0 = never)",
        ),
    ]
    max_pwatermark: Annotated[
        Probability,
        Field(description="the list's pwatermark or watermark score; above it is dropped"),
    ]
    min_aesthetic: Annotated[
        float | None,
        Field(ge=0, le=10, description="the list's aesthetic score; below it is dropped"),
    ]
    min_similarity: Annotated[
        float | None,
        Field(
            ge=-1,
            le=1,
            description="the list's CLIP similarity of image and caption; below it is dropped",
        ),
    ]
    min_score: Annotated[
        Annotated[float, Field(ge=-1, le=1)] | Percent,
        Field(
            description="CLIP cosine to the class the query names; a number depends on the CLIP model, a percentile "
            "such as 30% does not: what 30 % of the pool miss under a keyword that is not theirs"
        ),
    ]
    min_margin: Annotated[
        Annotated[float, Field(ge=-2, le=2)] | Percent,
        Field(
            description="CLIP cosine to that class minus the best other one; a number, or a percentile as above"
        ),
    ]
    duplicate_similarity: Annotated[
        Similarity,
        Field(
            description="from here on two images count as one, the better scored stays (1.01 = never)"
        ),
    ]
    embedding_neighbours: Annotated[
        int,
        Field(
            ge=0,
            le=64,
            description="nearest images by CLIP that each is compared with too; finds copies cut off at a corner",
        ),
    ]
    per_class: Annotated[
        int | None,
        Field(ge=1, description="most images of one class keyword, best scored first; null = all"),
    ]

    @field_validator("licences")
    @classmethod
    def _stated(cls, licences: tuple[str, ...]) -> tuple[str, ...]:
        for name in licences:
            if not licence_code(name):
                raise ValueError(
                    f"licences names {name!r}, which is no licence; see unknown_licence"
                )
        return licences
