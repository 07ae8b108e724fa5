"""Parameters of the stage `distill`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from webdistill.core.errors import UserError
from webdistill.core.params import Section
from webdistill.models.names import Attention, Precision, Query, parse

Uncertainty = Literal["energy", "max_softmax"]
DRAWING = ("mosaic", "augkd")  # methods that make images, see Method.draws
Weighting = Literal["disagreement", "agreement", "none"]


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
        Field(description="weight images up where student and teacher disagree, or agree"),
    ]
    mixdistribution: Annotated[
        bool, Field(description="contrastive block on views with mixed channel statistics")
    ]
    contrast: Annotated[
        Literal["cross", "student"],
        Field(description="perturbed student against the teacher, or against the student itself"),
    ]
    contrast_weight: Annotated[float, Field(ge=0, description="factor of the contrastive loss")]


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
    teacher_weight: Annotated[
        float,
        Field(ge=0, le=1, description="of the teacher's answers in the last module; rest: labels"),
    ]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.mixup or self.anchor_epochs) and not self.free_epochs:
            raise ValueError(
                "free_epochs = 0 leaves no generator to mix with; raise it, or set mixup: false and anchor_epochs: 0"
            )
        return self


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

    enabled: Annotated[bool, Field(description="compensate the student's answers in all losses")]
    dictionary: Annotated[
        Literal["prototypes", "drawn", "random"],
        Field(
            description="of stage prototypes, of images that the method makes, or noise of equal size (control)"
        ),
    ]
    attention: Annotated[
        Attention, Field(description="over prototypes; random: the same for every image")
    ]
    query: Annotated[Query, Field(description="what attends: the student's raw logits or features")]
    prior: Annotated[bool, Field(description="weight prototypes by their share of the images")]
    lr: Annotated[
        float,
        Field(
            gt=0, le=10, description="peak rate of the compensation's SGD, whatever the method's"
        ),
    ]
    inference: Annotated[
        Literal["compensated", "raw"],
        Field(description="which answers the exported student gives"),
    ]
    drawn: Annotated[DrawnSettings, Field(description="options of dictionary drawn")]


class Distill(Section):
    """Student, method and schedule."""

    method: Annotated[
        Literal["kd", "dfnd", "simkd", "kd3", "mosaic", "odsd", "augkd", "supervised"],
        Field(description="distillation method; its options are in the section of its name"),
    ]
    student: Annotated[str, Field(description="architecture, see webdistill.models.names")]
    epochs: Annotated[int, Field(ge=1, le=10_000, description="epochs of steps_per_epoch steps")]
    steps_per_epoch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="optimiser steps of an epoch; null = selected images / batch_size"),
    ]
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images per step")]
    lr: Annotated[float, Field(gt=0, le=10, description="peak learning rate of SGD")]
    decay: Annotated[
        Literal["cosine", "steps"],
        Field(
            description="of the rates: to 0, or times 0.1 after 62.5, 75 and 87.5 % of the steps"
        ),
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
            description="distinct views per image; answers to repeating ones are kept. 0 = always new",
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

    kd3: Annotated[Kd3Settings, Field(description="options of method kd3")]
    dfnd: Annotated[DfndSettings, Field(description="options of method dfnd")]
    mosaic: Annotated[MosaicSettings, Field(description="options of method mosaic")]
    odsd: Annotated[OdsdSettings, Field(description="options of method odsd")]
    augkd: Annotated[AugKdSettings, Field(description="options of method augkd")]
    deconfound: Annotated[DeconfoundSettings, Field(description="KDCI, for any method")]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} is more than epochs = {self.epochs}; lower it"
            )
        if self.mixup and self.method in ("augkd", "supervised"):
            raise ValueError(
                f"mixup = {self.mixup:g} mixes images of several classes, which {self.method} learns; set it to 0"
            )
        plug_in = self.deconfound
        if plug_in.enabled and plug_in.dictionary == "drawn" and self.method not in DRAWING:
            raise ValueError(
                f"deconfound.dictionary = drawn, but {self.method} draws no images of its own; set it to prototypes"
            )
        if plug_in.enabled and plug_in.dictionary == "drawn" and plug_in.drawn.start >= self.epochs:
            raise ValueError(
                f"deconfound.drawn.start = {plug_in.drawn.start} leaves none of epochs = {self.epochs} with a "
                "dictionary; lower it"
            )
        before = self.augkd.free_epochs + self.augkd.anchor_epochs
        if self.method == "augkd" and before >= self.epochs:
            raise ValueError(
                f"augkd.free_epochs + augkd.anchor_epochs = {before} leave none of epochs = {self.epochs} for the "
                "last module; raise epochs"
            )
        try:
            parse(self.student)
        except UserError as error:
            raise ValueError(f"student: {error}") from None
        return self
