"""Options of the methods that make all their images themselves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from webdistill.core.section import Section


class DaflSettings(Section):
    """Options of `method: dafl`."""

    latent: Annotated[int, Field(ge=1, description="dimensions of the generator's input")]
    generator_lr: Annotated[float, Field(gt=0, description="Adam's rate for the generator")]
    one_hot: Annotated[float, Field(ge=0, description="weight: the teacher decides")]
    activation: Annotated[
        float, Field(ge=0, description="weight: the teacher's features are large")
    ]
    balance: Annotated[float, Field(ge=0, description="weight: images spread over the classes")]


class SynthesisSettings(Section):
    """What methods share that make and store images in rounds, one an epoch."""

    images: Annotated[int, Field(ge=2, description="images that a round makes")]
    steps: Annotated[int, Field(ge=1, description="optimiser steps of a round")]
    rate: Annotated[float, Field(gt=0, description="Adam's rate in a round")]
    warmup: Annotated[int, Field(ge=0, description="rounds before the student learns")]
    store: Annotated[int, Field(ge=2, description="images kept; the oldest are forgotten")]
    adversarial: Annotated[
        float,
        Field(ge=0, description="weight: student and teacher differ, from the second epoch on"),
    ]
    statistics: Annotated[
        float, Field(ge=0, description="weight: the teacher's BN statistics, summed over layers")
    ]
    one_hot: Annotated[float, Field(ge=0, description="weight: the teacher sees the image's class")]


class FastSettings(SynthesisSettings):
    """Options of `method: fast`."""

    latent: Annotated[int, Field(ge=1, description="dimensions of the generator's input")]
    noise_rate: Annotated[float, Field(gt=0, description="Adam's rate for the noise in a round")]
    reset: Annotated[
        int, Field(ge=1, description="epochs before the generator's first layer starts anew, once")
    ]


class CmiSettings(SynthesisSettings):
    """Options of `method: cmi`."""

    latent: Annotated[int, Field(ge=1, description="dimensions of the generator's input")]
    contrast: Annotated[
        float, Field(ge=0, description="weight: an image can be told from others, stored ones too")
    ]


class DeepInvSettings(SynthesisSettings):
    """Options of `method: deepinv`."""

    tv: Annotated[float, Field(ge=0, description="weight of the differences between neighbours")]
    l2: Annotated[float, Field(ge=0, description="weight of the images' norm")]
