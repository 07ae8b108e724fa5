"""Parameters of the stage `distill`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from stages.distill.synthesis_params import CmiSettings, DaflSettings, DeepInvSettings, FastSettings
from webdistill.core.errors import UserError
from webdistill.core.section import Section
from webdistill.models.names import Attention, Fuse, Precision, Query, parse

METHODS = Literal[
    "kd", "dfnd", "simkd", "kd3", "mosaic", "odsd", "augkd", "supervised", "dafl", "fast", "cmi", "deepinv",
]  # fmt: skip
# What `null` stands for. Losses of features are shares of the teacher's variance, so one rate serves every pair.
LOGITS_LR, FEATURE_LR, SGD_DECAY = 0.1, 1.0, 5e-4
MUON_LR, MUON_DECAY = 0.007, 0.05
TEMPERATURE, AUGKD_TEMPERATURE = 4.0, 10.0  # AuG-KD as released
PLAIN = "kd"  # the method whose student is the network alone
PRETRAINED = "pretrained"  # student_weights: those that torchvision or timm has
BYTELESS = {"images"}  # decide no byte of any output, so they are in no key
Uncertainty = Literal["energy", "max_softmax"]
SYNTHESIS_TEMPERATURE, SYNTHESIS_STEPS = (
    20.0,
    100,
)  # of methods without a pool, as released; an epoch's steps
POOL_FREE = ("dafl", "fast", "cmi", "deepinv")  # see Method.needs_pool
ROUNDS = ("fast", "cmi", "deepinv")  # methods whose images one process makes, in rounds
DRAWING = ("mosaic", "augkd", *POOL_FREE)  # methods that make images, see Method.draws
Weighting = Literal["disagreement", "agreement", "standardised", "none"]


class Rates(NamedTuple):
    """How the student's weights are changed."""

    optimizer: Literal["sgd", "muon"]
    lr: float
    weight_decay: float


class NoOptions(Section):
    """Of a method that has none of its own: DVC watches the section that is named like the method."""


LateKl = Annotated[
    float,
    Field(
        ge=0, description="weight of the KL divergence at the end, growing from 0 with the epochs"
    ),
]


ProjectorWidth = Annotated[
    Annotated[int, Field(ge=1, le=65_536)] | None,
    Field(
        description="channels between the projector's convolutions; null = half the teacher's, fewer where its weights "
        "would be more than the student's own"
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
            description="what the student starts from: a file (.safetensors, .pt), a folder with config.json, or "
            "`pretrained`: the library's own; null = fresh"
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
            description="of the networks' arithmetic; auto: bfloat16 where the processor computes in it"
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
        optimizer = self.optimizer or ("muon" if self._features else "sgd")
        lr, decay = (self._sgd, SGD_DECAY) if optimizer == "sgd" else (MUON_LR, MUON_DECAY)
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
        return FEATURE_LR if self._features else LOGITS_LR

    @property
    def _features(self) -> bool:
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
