"""Parameters of the stage `distill`: network, images and schedule, whatever the method.

Options of one method are in method_params.py, those of `deconfound` in deconfound_params.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from stages.distill.deconfound_params import DeconfoundSettings
from stages.distill.method_params import (
    DRAWING,
    METHODS,
    POOL_FREE,
    ROUNDS,
    AugKdSettings,
    CmiSettings,
    DaflSettings,
    DeepInvSettings,
    DfndSettings,
    FastSettings,
    Kd3Settings,
    MosaicSettings,
    NoOptions,
    OdsdSettings,
    SimKdSettings,
)
from webdistill.core.errors import UserError
from webdistill.core.section import Section
from webdistill.models.names import Precision, parse

# What `null` stands for. Losses of features are shares of the teacher's variance, so one rate serves every pair.
LOGITS_LR, FEATURE_LR, SGD_DECAY = 0.1, 1.0, 5e-4
GIVEN_LR = 0.01  # instead of LOGITS_LR: 0.1 destroys what given weights know
MUON_LR, MUON_DECAY = 0.007, 0.05
TEMPERATURE = 4.0
AUGKD_TEMPERATURE, SYNTHESIS_TEMPERATURE = 10.0, 20.0  # as released
SYNTHESIS_STEPS = 100  # of an epoch of a method without a pool, as released
PRETRAINED = "pretrained"  # student_weights: those that torchvision or timm has,
TEACHER, AUTO = (
    "teacher",
    "auto",
)  # the strongest channels of the teacher; auto: where that is possible
NO_FILES = frozenset({PRETRAINED, TEACHER, AUTO})
BYTELESS = {"images"}  # decide no byte of any output, so they are in no key


class Rates(NamedTuple):
    """How the student's weights are changed."""

    optimizer: Literal["sgd", "muon"]
    lr: float
    weight_decay: float


class Distill(Section):
    """Student, method and schedule."""

    method: Annotated[
        METHODS,
        Field(description="distillation method; its options are in the section of its name"),
    ]
    student: Annotated[str, Field(description="architecture, see webdistill.models.names")]
    student_weights: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Field(
            description="what the student starts from: a file (.safetensors, .pt), a folder with config.json, "
            "`pretrained`: the library's own, `teacher`: the strongest channels of the teacher, whose narrower or "
            "shallower version the student is, or `auto`: `teacher` where a method reuses the teacher's classifier "
            "and it is possible; null = fresh"
        ),
    ]
    epochs: Annotated[int, Field(ge=1, le=10_000, description="epochs of steps_per_epoch steps")]
    steps_per_epoch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(
            description="optimiser steps of an epoch; null = selected images / batch_size, "
            "100 where the method makes all images"
        ),
    ]
    images: Annotated[
        Literal["auto", "memory", "encoded"],
        Field(
            description="kept as pixels in memory, or encoded and decoded when needed: the same student; auto: by size"
        ),
    ]
    batch_size: Annotated[int, Field(ge=2, le=65_536, description="images per step")]
    holdout: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="share of the selection that is never trained on, only measured",
        ),
    ]
    optimizer: Annotated[
        Literal["sgd", "muon"] | None, Field(description="null = the method's own")
    ]
    lr: Annotated[
        Annotated[float, Field(gt=0, le=10)] | None,
        Field(description="peak learning rate; null = the method's own, for its optimizer"),
    ]
    decay: Annotated[
        Literal["cosine", "steps"],
        Field(
            description="of the rates: to 0, or times 0.1 after 62.5, 75 and 87.5 % of the steps"
        ),
    ]
    warmup_epochs: Annotated[float, Field(ge=0, description="linear warm-up, epochs")]
    weight_decay: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Field(description="on matrices and kernels, not on BN or bias; null = the optimizer's own"),
    ]
    temperature: Annotated[
        Annotated[float, Field(gt=0, le=100)] | None,
        Field(description="softens both distributions; loss times T^2; null = the method's own"),
    ]
    min_scale: Annotated[
        float, Field(gt=0, le=1, description="smallest area of a random crop, share of image")
    ]
    shift: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="largest move beyond the border, share of the side; mirrored there",
        ),
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
            description="of the networks' arithmetic; auto: bfloat16 on a GPU or a processor with AMX, else float32"
        ),
    ]
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = cuda where there is one")
    ]
    processes: Annotated[
        Annotated[int, Field(ge=1, le=256)] | Literal["gpus"],
        Field(
            description="that train together on this machine, each on its share of every batch; gpus = one for each "
            "CUDA device; the count decides bytes"
        ),
    ]

    kd: Annotated[NoOptions, Field(description="method kd has no options of its own")]
    simkd: Annotated[SimKdSettings, Field(description="options of method simkd")]
    supervised: Annotated[NoOptions, Field(description="supervised has no options of its own")]
    kd3: Annotated[Kd3Settings, Field(description="options of method kd3")]
    dfnd: Annotated[DfndSettings, Field(description="options of method dfnd")]
    mosaic: Annotated[MosaicSettings, Field(description="options of method mosaic")]
    odsd: Annotated[OdsdSettings, Field(description="options of method odsd")]
    augkd: Annotated[AugKdSettings, Field(description="options of method augkd")]
    dafl: Annotated[DaflSettings, Field(description="options of method dafl")]
    fast: Annotated[FastSettings, Field(description="options of method fast")]
    cmi: Annotated[CmiSettings, Field(description="options of method cmi")]
    deepinv: Annotated[DeepInvSettings, Field(description="options of method deepinv")]
    deconfound: Annotated[DeconfoundSettings, Field(description="KDCI, for any method")]

    @property
    def rates(self) -> Rates:
        """Optimizer, rate and weight decay; what is null is the method's own, and the optimizer's."""
        optimizer = self.optimizer or (
            "muon" if self.reuses_classifier or self.method == "kd" else "sgd"
        )
        lr, decay = (self._sgd, SGD_DECAY) if optimizer == "sgd" else (MUON_LR, MUON_DECAY)
        given = self.student_weights not in (None, AUTO)
        if given and (optimizer, lr) == ("sgd", LOGITS_LR):
            lr = GIVEN_LR
        return Rates(
            optimizer,
            lr if self.lr is None else self.lr,
            decay if self.weight_decay is None else self.weight_decay,
        )

    @property
    def compensation_lr(self) -> float:
        """`deconfound.lr`, or that of SGD for the method's kind of loss."""
        return self._sgd if self.deconfound.lr is None else self.deconfound.lr

    @property
    def _sgd(self) -> float:
        return FEATURE_LR if self.reuses_classifier else LOGITS_LR

    @property
    def reuses_classifier(self) -> bool:
        """Whether the student imitates maps."""
        return self.method == "simkd" or (self.method == "kd3" and self.kd3.shared_classifier)

    @property
    def softness(self) -> float:
        """`temperature`, or the method's own."""
        own = AUGKD_TEMPERATURE if self.method == "augkd" else TEMPERATURE
        if self.method in POOL_FREE:
            own = SYNTHESIS_TEMPERATURE
        return own if self.temperature is None else self.temperature

    def decisive(self) -> dict[str, Any]:
        """All that this run depends on, as in dvc.yaml."""
        return self.model_dump(exclude=self.idle())

    def idle(self) -> set[str]:
        """Keys on which this run does not depend, the options of other methods among them."""
        return {each for each in get_args(METHODS) if each != self.method} | BYTELESS

    def unshared(self, processes: int) -> str | None:
        """Why so many processes cannot share this training, as a sentence that names the keys; None where they can."""
        if processes == 1:
            return None
        if self.method in ROUNDS:
            return f"{self.method} makes its images in rounds of one process; set processes: 1"
        if self.batch_size % processes:
            return (
                f"batch_size = {self.batch_size} does not divide by processes = {processes}, which take equal shares "
                "of a batch; change one of them"
            )
        perturbed = self.kd3.perturbed(self.batch_size)
        if self.method == "kd3" and self.kd3.mixdistribution and perturbed % processes:
            return (
                f"kd3.contrast_share = {self.kd3.contrast_share:g} of batch_size = {self.batch_size} is {perturbed} "
                f"images, which do not divide by processes = {processes}; change one of them"
            )
        return None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} is more than epochs = {self.epochs}; lower it"
            )
        if self.processes == "gpus" and self.method in ROUNDS:
            raise ValueError(self.unshared(2))
        if self.processes != "gpus" and (trouble := self.unshared(self.processes)):
            raise ValueError(trouble)
        if self.mixup and self.method in ("augkd", "supervised"):
            raise ValueError(
                f"mixup = {self.mixup:g} mixes images of several classes, which {self.method} learns; set it to 0"
            )
        plug_in = self.deconfound
        if plug_in.dictionary == "drawn" and self.method not in DRAWING:
            raise ValueError(
                f"deconfound.dictionary = drawn, but {self.method} draws no images of its own; set it to prototypes"
            )
        if plug_in.dictionary == "drawn" and plug_in.drawn.start >= self.epochs:
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
            family = parse(self.student).family
        except UserError as error:
            raise ValueError(f"student: {error}") from None
        if self.student_weights == PRETRAINED and family not in ("torchvision", "timm"):
            raise ValueError(
                f"student_weights = {PRETRAINED}, but {self.student} is no network of torchvision or timm; name a file"
            )
        return self
