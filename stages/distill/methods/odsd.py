"""ODSD, "Sampling to Distill" (Wang et al. 2023, arXiv 2307.16601): sample the pool once, imitate its structure.

Known from the published abstract and summaries: adaptive prototype sampling, which scores images by confidence,
outlierness and class density, and a relational distillation that compares images of a batch with each other and with
the teacher's structured representation of the data. Its formulas were not at hand: everything below that gives these
words a formula is our reading. Left out is its correction of noisy labels, which no source at hand describes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill import ranks
from stages.distill.method_params import OdsdSettings
from stages.distill.methods import Batch, Choice, Method, Pool
from stages.distill.methods.kd import kl_divergence
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of

ROUNDS = 50  # cap on k-means rounds
SEED = 0  # of the starting prototypes
LEAST = 10  # images per prototype, on average; a prototype with a tenth of the average is none
TEMPERATURE = 0.1  # of the relations; cosines are divided by it


def spread_start(unit: Tensor, count: int) -> Tensor:
    """k-means++: `count` or fewer rows of `unit` [N, C], each drawn with odds of its squared distance to the others.

    Fewer where fewer rows differ. Random numbers come from a fixed seed on the CPU: the same rows, the same start.
    """
    draws = torch.rand(count, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    places = [int(draws[0] * len(unit))]
    nearest = torch.full((len(unit),), torch.inf, dtype=torch.float64, device=unit.device)
    for draw in draws[1:].tolist():
        distance = (unit - unit[places[-1]]).double().square().sum(1)
        nearest = torch.minimum(nearest, distance)
        reach = nearest.cpu().cumsum(0)  # whose order of summation varies on CUDA
        if float(reach[-1]) < 1e-9:
            break
        place = int(torch.searchsorted(reach, draw * reach[-1], right=True))
        places.append(min(place, len(unit) - 1))
    return unit[torch.tensor(places, device=unit.device)]


def find_prototypes(features: Tensor, count: int) -> Tensor:
    """k-means on the unit sphere: features [N, C] -> prototypes [P, C], unit vectors, P <= count.

    Prototypes that hold hardly any image are dropped: an outlier must not be its own prototype.
    """
    unit = F.normalize(features.float(), dim=1)
    prototypes = spread_start(unit, min(count, max(1, len(unit) // LEAST)))
    before = None
    for _ in range(ROUNDS):
        nearest = (unit @ prototypes.T).argmax(1)
        members = F.one_hot(nearest, len(prototypes)).to(unit.dtype)
        if before is not None and torch.equal(nearest, before):
            break
        # a product and not index_add_, whose order of summation varies on CUDA; an empty prototype stays where it is
        prototypes = F.normalize(members.T @ unit + 1e-6 * prototypes, dim=1)
        before = nearest
    return prototypes[members.sum(0) > 0.1 * len(unit) / len(prototypes)]


def share_below(values: Tensor) -> Tensor:
    """[N] -> share of the values that are smaller, in [0, 1): ranks, so that one extreme value moves no other."""
    return torch.searchsorted(values.sort().values, values).double() / len(values)


def sampling_scores(logits: Tensor, distance: Tensor, keep: float) -> Tensor:
    """Teacher logits [N, K] and distances to the nearest prototype [N] -> scores [N], the higher the better: c - o - d.

    c: share of the pool that the teacher is less sure of; o: share of the pool that lies nearer to its prototype;
    d: how crowded the image's class already is: images of that class with a larger c - o, per fair share keep N / K.
    """
    count, classes = logits.shape
    log_probability, label = torch.log_softmax(logits.double(), dim=1).max(1)
    score = share_below(log_probability) - share_below(distance)
    order = score.argsort(descending=True, stable=True)
    by_class = order[label[order].argsort(stable=True)]  # classes one after the other, best first
    sizes = torch.bincount(label, minlength=classes)
    begin = sizes.cumsum(0) - sizes
    better = torch.empty_like(score)
    better[by_class] = (torch.arange(count, device=score.device) - begin[label[by_class]]).double()
    return score - better / max(keep * count / classes, 1.0)


def relations(features: Tensor, prototypes: Tensor) -> Tensor:
    """Log-probabilities [B, B - 1 + P]: how alike image i is to every other image of the batch and every prototype.

    r_i = log softmax_a(cos(h_i, a) / TEMPERATURE) over a in {h_j, j != i} and prototypes; features [B, C], prototypes
    [P, C].
    """
    unit = F.normalize(features, dim=1)
    cosines = unit @ torch.cat([unit, F.normalize(prototypes, dim=1)]).T
    other = ~torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    return F.log_softmax(cosines[other].view(len(unit), -1) / TEMPERATURE, dim=1)


def relation_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """mean_i w_i KL(r_T,i || r_S,i); log-probabilities [B, A], weight [B]."""
    return (weight * (teacher.exp() * (teacher - student)).sum(1)).mean()


class Odsd(Method):
    """T^2 KL + relation * relational loss, on the images with the best scores.

    The student's penultimate features pass a linear map into the teacher's feature space (trained, not exported), so
    that both networks are related to the same prototypes.
    """

    prototypes: Tensor  # [settings.prototypes, C]; unused rows are zero

    def __init__(
        self, student: Classifier, teacher: Classifier, temperature: float, settings: OdsdSettings
    ) -> None:
        super().__init__()
        self.net, self.temperature, self.settings = student, temperature, settings
        self.needs_maps = settings.relation > 0
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved
        if self.needs_maps:
            width, device = teacher.fc.in_features, device_of(student)
            self.map = nn.Linear(student.fc.in_features, width).to(device)
            empty = torch.zeros(settings.prototypes, width, device=device)
            self.register_buffer("prototypes", empty)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        features = self.net.pool(self.net.features(batch.images))
        logits = self.net.answer(features).float()
        losses = {"kd": kl_divergence(logits, batch.teacher_logits, self.temperature, batch.weight)}
        if self.needs_maps:
            losses["relation"] = self.settings.relation * self._relation(batch, self.map(features))
        return losses, logits

    def _relation(self, batch: Batch, mapped: Tensor) -> Tensor:
        assert batch.teacher_maps is not None
        teacher = self._teacher[0].pool(batch.teacher_maps)
        prototypes = self.prototypes[self.prototypes.any(dim=1)]
        with torch.autocast(mapped.device.type, enabled=False):  # cosines need float32
            return relation_loss(
                relations(ranks.whole(mapped.float()), prototypes),
                relations(ranks.whole(teacher.float()), prototypes),
                ranks.whole(batch.weight),
            )

    def student(self) -> Classifier:
        return self.net

    def select(self, pool: Pool, epoch: int, epochs: int) -> Choice | None:
        """Once, before the first epoch: prototypes of the whole pool, and the share `keep` with the best scores."""
        if epoch:
            return None
        logits = pool.teacher_logits
        unit = F.normalize(pool.teacher_features, dim=1)
        found = find_prototypes(unit, self.settings.prototypes)
        if self.needs_maps:
            self.prototypes.zero_()[: len(found)] = found
        distance = 1 - (unit @ found.T).amax(1)
        rank = sampling_scores(logits, distance, self.settings.keep).argsort(
            descending=True, stable=True
        )
        keep = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        keep[rank[: max(1, round(self.settings.keep * len(logits)))]] = True
        confidence, label = torch.softmax(logits, dim=1).max(1)
        return Choice(keep, label, confidence)
