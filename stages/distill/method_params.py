"""The methods' names, their kinds, and the options of each: the section of its name below `distill`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from webdistill.core.section import Section

METHODS = Literal[
    "kd", "dfnd", "simkd", "kd3", "mosaic", "odsd", "augkd", "supervised", "dafl", "fast", "cmi", "deepinv",
]  # fmt: skip
PLAIN = "kd"  # the method whose student is the network alone
POOL_FREE = ("dafl", "fast", "cmi", "deepinv")  # see Method.needs_pool
ROUNDS = ("fast", "cmi", "deepinv")  # methods whose images one process makes, in rounds
DRAWING = ("mosaic", "augkd", *POOL_FREE)  # methods that make images, see Method.draw
Uncertainty = Literal["energy", "max_softmax"]
Weighting = Literal["disagreement", "agreement", "standardised", "none"]


class NoOptions(Section):
    """Of a method that has none of its own: DVC watches the section that is named like the method."""


LateKl = Annotated[
    float,
    Field(
        ge=0, description="weight of the KL divergence at the end, growing from 0 with the epochs"
    ),
]


ProjectorWidth = Annotated[
    Annotated[int, Field(ge=0, le=65_536)] | None,
    Field(
        description="channels between the projector's convolutions; null = half the teacher's, at least 32, fewer "
        "where its weights would be more than the student's own; 0 = no projector, for a student with as many last "
        "channels as its teacher"
    ),
]


class SimKdSettings(Section):
    """Options of `method: simkd`."""

    kl: LateKl
    projector_width: ProjectorWidth


class Kd3Settings(Section):
    """Options of `method: kd3`."""

    selection: Annotated[
        bool, Field(description="dynamic selection before an epoch; false: the whole selection")
    ]
    alpha_tail: Annotated[
        Literal["drop", "continuous"],
        Field(description="teacher's share in the selecting logits after half the epochs"),
    ]
    reselect_every: Annotated[int, Field(ge=1, description="epochs between selections")]
    shared_classifier: Annotated[
        bool, Field(description="student ends in projector + the teacher's classifier")
    ]
    weighting: Annotated[
        Weighting,
        Field(
            description="of images in the feature loss: up where student and teacher disagree, or agree, as published; "
            "standardised: disagreement relative to the batch's"
        ),
    ]
    mixdistribution: Annotated[
        bool, Field(description="contrastive block on views with mixed channel statistics")
    ]
    contrast: Annotated[
        Literal["cross", "student"],
        Field(description="perturbed student against the teacher, or against the student itself"),
    ]
    contrast_weight: Annotated[float, Field(ge=0, description="factor of the contrastive loss")]
    contrast_share: Annotated[
        float, Field(gt=0, le=1, description="share of the batch that the block perturbs")
    ]
    kl: LateKl
    projector_width: ProjectorWidth

    def perturbed(self, batch_size: int) -> int:
        """Images of a batch that the contrastive block perturbs."""
        return max(2, round(self.contrast_share * batch_size))


class DfndSettings(Section):
    """Options of `method: dfnd`."""

    keep: Annotated[
        float, Field(gt=0, le=1, description="share of the selection, the most confident overall")
    ]
    teacher_accuracy: Annotated[
        float, Field(gt=0, lt=1, description="diagonal of the noise matrix Q")
    ]


class MosaicSettings(Section):
    """Options of `method: mosaic`."""

    latent: Annotated[int, Field(ge=1, description="dimensions of the generator's input")]
    generator_lr: Annotated[
        float, Field(gt=0, description="Adam's rate for generator and patch discriminator")
    ]
    local: Annotated[
        float, Field(ge=0, description="weight: patches look like the pool's; summed over patches")
    ]
    align: Annotated[float, Field(ge=0, description="weight: the teacher is sure of a mosaic")]
    balance: Annotated[float, Field(ge=0, description="weight: mosaics spread over the classes")]
    adversarial: Annotated[
        float, Field(ge=0, description="weight: mosaics on which student and teacher differ")
    ]


class OdsdSettings(Section):
    """Options of `method: odsd`."""

    keep: Annotated[float, Field(gt=0, le=1, description="share of the selection that is sampled")]
    prototypes: Annotated[
        int,
        Field(ge=1, description="k-means of teacher features; never more than images / 10"),
    ]
    relation: Annotated[float, Field(ge=0, description="weight of the relational loss")]


class AugKdSettings(Section):
    """Options of `method: augkd`."""

    latent: Annotated[int, Field(ge=1, description="dimensions of the generator's input")]
    free_epochs: Annotated[
        int, Field(ge=0, description="of data-free learning; 0: the student starts fresh")
    ]
    anchor_epochs: Annotated[int, Field(ge=0, description="of anchor learning; 0: no anchor")]
    mixup: Annotated[bool, Field(description="train on mixtures, too; the remaining epochs")]
    a: Annotated[
        float, Field(gt=0, description="share of the last module after which mixtures are images")
    ]
    b: Annotated[float, Field(ge=0, le=1, description="the image's share in the first mixtures")]
    mask_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of dimensions that the class mask spares")
    ]
    uncertainty: Annotated[
        Uncertainty, Field(description="of the teacher on an anchor: -logsumexp, or 1 - max p")
    ]
    mask_start: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Field(description="mean of the class masks to begin with; null = 1 - mask_ratio"),
    ]
    anchor_lr: Annotated[float, Field(gt=0, le=1, description="Adam's rate for mask and mapping")]
    encoder_lr: Annotated[float, Field(gt=0, le=1, description="Adam's rate for the encoder")]
    teacher_weight: Annotated[
        float,
        Field(ge=0, le=1, description="of the teacher's answers in the last module; rest: labels"),
    ]

    @property
    def masked(self) -> float:
        """`mask_start`, or the share of dimensions that the mask's penalty asks for."""
        return 1 - self.mask_ratio if self.mask_start is None else self.mask_start

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.mixup or self.anchor_epochs) and not self.free_epochs:
            raise ValueError(
                "free_epochs = 0 leaves no generator to mix with; raise it, or set mixup: false and anchor_epochs: 0"
            )
        return self


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
