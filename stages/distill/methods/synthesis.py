"""What methods that make all their images themselves share: what is wished of an image, a store, the student's turn.

Before an epoch a round makes some images (`Synthesis.round`) and stores them; in the epoch the student learns from
stored ones. Formulas are those of the papers named in dafl.py, fast.py, cmi.py and deepinv.py.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill.method_params import SynthesisSettings
from stages.distill.methods import Batch, Method
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.mosaic import through
from stages.distill.methods.statistics import Memory, norms, statistics_gap
from webdistill.core.errors import UserError
from webdistill.images.views import crops
from webdistill.models.classifier import Classifier
from webdistill.models.device import device_of

RANGE = 3.0  # normalised values that a byte can hold lie between -RANGE and RANGE
SHIFT = 0.125  # largest move of a stored image in a student's batch, share of its side
SHOWN = 12  # images of a moment


class Store(nn.Module):
    """The images made last, as one uint8 tensor on the device; what is full forgets the oldest.

    Our reading: a method knows no pixels, only normalised values, of which bytes take the range that images have.
    """

    pixels: Tensor  # [capacity, 3, S, S]
    made: Tensor  # [], all images ever added

    def __init__(self, capacity: int, image_size: int) -> None:
        super().__init__()
        shape = (capacity, 3, image_size, image_size)
        self.register_buffer("pixels", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.made), len(self.pixels))

    @torch.no_grad()
    def add(self, images: Tensor) -> None:
        """Images [B, 3, S, S], normalised; of more than there is room for the last ones."""
        images = images[-len(self.pixels) :]
        levels = ((images.float() / RANGE + 1) * 127.5).round().clamp(0, 255)
        places = torch.arange(len(images), device=self.made.device) + self.made
        self.pixels[places % len(self.pixels)] = levels.byte()
        self.made += len(images)

    def take(self, count: int, rng: np.random.Generator) -> Tensor:
        """Images drawn with replacement [count, 3, S, S], normalised."""
        return self._read(torch.from_numpy(rng.integers(len(self), size=count)))

    def newest(self, count: int) -> Tensor:
        """The last ones, [count, 3, S, S] or fewer, normalised."""
        last = int(self.made)
        return self._read(torch.arange(last - min(count, len(self)), last) % len(self.pixels))

    def _read(self, rows: Tensor) -> Tensor:
        levels = self.pixels[rows.to(self.pixels.device, non_blocking=True)]
        return ((levels.float() / 127.5 - 1) * RANGE).contiguous(memory_format=torch.channels_last)


def moved(images: Tensor, rng: np.random.Generator, least: float = 1.0) -> Tensor:
    """Every image [B, 3, S, S] mirrored by chance and moved by up to SHIFT; cut to a share >= `least` of its area."""
    drawn = torch.from_numpy(rng.random((len(images), 4), dtype=np.float32))
    drawn = drawn.to(images.device, non_blocking=True)
    scale = (least + (1 - least) * drawn[:, 0]).sqrt()
    mirror = torch.where(drawn[:, 1] < 0.5, -1.0, 1.0)
    return crops(images, scale, mirror, drawn[:, 2:] * 2 - 1, SHIFT)


def decided_adversary(student: Tensor, teacher: Tensor) -> Tensor:
    """-mean_i [argmax z_S = argmax z_T] KL(softmax(z_T) || softmax(z_S)); logits [B, K].

    Images on which both decide alike and yet differ: others may lie where even the teacher knows nothing (CMI, Fast).
    """
    same = (student.argmax(1) == teacher.argmax(1)).float()
    return -kl_divergence(student, teacher, 1.0, same)


def normal(count: int, latent: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """N(0, 1) numbers [count, latent]."""
    noise = rng.standard_normal((count, latent), dtype=np.float32)
    return torch.from_numpy(noise).to(device, non_blocking=True)


class Best:
    """Keeps the images [B, 3, S, S] with the smallest loss [] of those that it is shown."""

    def __init__(self) -> None:
        self.images, self.loss = torch.empty(0), torch.tensor(math.inf)

    @torch.no_grad()
    def show(self, images: Tensor, loss: Tensor) -> None:
        """Without waiting for the device."""
        if not len(self.images):
            self.images, self.loss = images.detach().clone(), loss.detach()
            return
        better = loss < self.loss
        self.images = torch.where(better, images, self.images)
        self.loss = torch.where(better, loss, self.loss)


class Synthesis(Method):
    """S: T^2 KL(T || S) on stored images, moved. A subclass says how a round makes images.

    The student does not learn in the warm-up's rounds, which come before the first epoch, and is no adversary in it.
    """

    needs_pool = False

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        image_size: int,
        temperature: float,
        settings: SynthesisSettings,
    ) -> None:
        super().__init__()
        if settings.statistics and not norms(teacher):
            raise UserError(
                "this distill.method makes images that fit the teacher's BatchNorm statistics, and task.teacher has "
                "none; take dafl or a method that learns from images, or set the method's option statistics to 0"
            )
        self.net, self.temperature, self.wanted = student, temperature, settings
        self.size, self.device = image_size, device_of(student)
        self.memory = Memory(teacher).to(self.device)
        self.store = Store(settings.store, image_size).to(self.device)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither trained nor saved

    # -- making images ---------------------------------------------------------------------------------------
    def prepare(self, epoch: int, rng: np.random.Generator) -> None:
        """One round, and those of the warm-up before the first epoch."""
        self.net.eval()
        for _ in range(1 if epoch else 1 + self.wanted.warmup):
            self.store.add(self.round(rng, adversary=epoch > 0))
            self.memory.keep()
        self.net.train()

    def round(self, rng: np.random.Generator, adversary: bool) -> Tensor:
        """-> new images [B, 3, S, S], normalised, better from step to step by what they are wished to be."""
        raise TypeError(f"{type(self).__name__} must define round()")

    def wishes(self, images: Tensor, targets: Tensor, adversary: bool) -> tuple[Tensor, Tensor]:
        """Images [B, 3, S, S] meant to be of classes [B] -> (loss [], the teacher's features [B, C]).

        one_hot CE(T(x), y) + statistics sum_layers |mean - mu| + |var - sigma^2| + adversarial * what S gets wrong.
        """
        teacher, weight = self._teacher[0], self.wanted
        with statistics_gap(teacher, self.memory) as gaps:
            features = teacher.pool(teacher.features(images))
            answer = teacher.answer(features).float()
        loss = weight.one_hot * F.cross_entropy(answer, targets)
        if gaps:
            loss = loss + weight.statistics * torch.stack(gaps).sum()
        if adversary and weight.adversarial:
            student = through(self.net, images).float()
            loss = loss + weight.adversarial * self.adversary(student, answer)
        return loss, features.float()

    def adversary(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits [B, K] of both -> what images gain when the student is wrong on them."""
        return decided_adversary(student, teacher)

    def targets(self, rng: np.random.Generator) -> Tensor:
        """Classes of a round's images, [B] int64."""
        classes = self._teacher[0].fc.out_features
        return torch.from_numpy(rng.integers(classes, size=self.wanted.images)).to(self.device)

    # -- the student's turn ------------------------------------------------------------------------------------
    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        images = moved(self.store.take(len(batch.rows), batch.rng), batch.rng)
        with torch.no_grad():
            self.reference = answer = self._teacher[0](images).float()
        logits = self.net(images).float()
        return {"kd": kl_divergence(logits, answer, self.temperature, batch.weight)}, logits

    def student(self) -> Classifier:
        return self.net

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        return self.store.take(count, rng)

    def moment(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """The images made last, whatever is shown."""
        return self.store.newest(SHOWN)
