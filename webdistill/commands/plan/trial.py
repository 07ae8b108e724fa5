"""A few steps of the training, with its own networks on random pictures: seconds, and bytes that depend on networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stages.distill.answers import Answer
from stages.distill.loop import Run
from stages.distill.method_params import POOL_FREE
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.harness.params import Params
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network
from webdistill.models.device import pick_device
from webdistill.models.zoo import build

UNCOUNTED = 2  # steps before the clock runs: the first are slow
ENOUGH = 30  # steps, though seconds be left


@dataclass(frozen=True)
class Seconds:
    """Medians of what was tried."""

    step: float  # with the teacher's answers
    teacher: float  # a batch's answers
    student: float  # the same of the student, without gradients
    scored: float  # the teacher's on a batch in the precision of the stage `score`
    tried: int  # steps


@dataclass(frozen=True)
class Trial:
    """The training of params.yaml on random pictures, a few batches of them."""

    run: Run
    score_precision: str

    @property
    def device(self) -> torch.device:
        return self.run.device

    @property
    def answer_bytes(self) -> int:
        """Of the teacher's answer to one view of one image, as it is kept."""
        logits, maps = self.run.forward.answer(self.run.views.plain(self._rows[:1]))
        answer = Answer(logits, maps if self.run.method.needs_maps else None)
        return sum(part.numel() * part.element_size() for part in answer.parts.values())

    def memory(self) -> tuple[int, int]:
        """-> bytes of the networks with gradients and what the optimiser keeps, and bytes that a step keeps for the
        way back, each tensor's memory once. Takes one step.
        """
        run = self.run
        nets = [*run.teacher.parameters(), *run.teacher.buffers()]
        nets += [*run.method.parameters(), *run.method.buffers()]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in nets}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            next(run.epoch(0))
        learned = [t.grad for t in run.method.parameters() if t.grad is not None]
        for optimiser in run.descent.optimisers:
            for state in optimiser.state.values():
                learned += [value for value in state.values() if isinstance(value, Tensor)]
        step = sum(size for place, size in kept.items() if place not in held)
        return sum(held.values()) + sum(t.numel() * t.element_size() for t in learned), step

    def seconds(self, limit: float) -> Seconds:
        """Try steps for `limit` seconds or ENOUGH of them, UNCOUNTED + 1 at least."""
        run, times = self.run, [time.perf_counter()]
        begun = times[0]
        for _ in run.epoch(0):
            self._wait()
            times.append(time.perf_counter())
            tried = len(times) - 1 - UNCOUNTED
            if tried >= ENOUGH or (tried > 0 and times[-1] - begun > limit):
                break
        steps = [b - a for a, b in pairwise(times)][UNCOUNTED:]
        images, student = run.views.plain(self._rows), run.method.student()
        answers = run.method.reads == "answers"
        return Seconds(
            step=statistics.median(steps),
            teacher=self._timed(lambda: run.forward.answer(images)) if answers else 0.0,
            student=self._timed(lambda: self._ask(student, images, run.forward.low_precision)),
            scored=self._timed(
                lambda: self._ask(run.teacher, images, self.score_precision == "bfloat16")
            ),
            tried=len(steps),
        )

    @property
    def _rows(self) -> Tensor:
        return torch.arange(self.run.settings.batch_size, device=self.device)

    def _ask(self, net: torch.nn.Module, images: Tensor, low: bool) -> None:
        training = net.training
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            net.eval()(images)
        net.train(training)

    def _timed(self, work: Callable[[], object]) -> float:
        """Median of three, the first time left out."""
        found = []
        for _ in range(4):
            begun = time.perf_counter()
            work()
            self._wait()
            found.append(time.perf_counter() - begun)
        return statistics.median(found[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def prepare(settings: Params, guide: Network) -> Trial:
    """Raises UserError when the method cannot work with this teacher, or when there is no such student."""
    distill, task = settings.sections["distill"], settings.task
    assert isinstance(distill, Distill)
    tried = _tried(distill)
    device = pick_device(distill.device, "distill.device")
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    count, side = 2 * distill.batch_size, task.image_size
    student = build(distill.student, len(task.classes), side).to(device)
    guide.net.to(device)
    method = build_method(tried, student, guide.net, side)
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8).to(device)
    views = Views(
        pixels,
        guide.card.mean,
        guide.card.std,
        seed=task.seed,
        min_scale=distill.min_scale,
        mixup=distill.mixup,
        shift=distill.shift,
    )
    labels = torch.arange(count, device=device) % len(task.classes)
    run = Run(
        settings=tried,
        seed=task.seed,
        views=views,
        teacher=guide.net,
        method=method,
        weight=torch.ones(count, device=device),
        ids=[str(n) for n in range(count)],
        classes=task.classes,
        labels=labels,
    )
    return Trial(run, settings.raw["score"]["precision"])


def _tried(distill: Distill) -> Distill:
    """Steps enough, answers never kept, no choice among pictures that show nothing, no de-confounding."""
    changes: dict[str, object] = {"steps_per_epoch": 1_000_000, "views": 0}
    if distill.method == "kd3":
        changes["kd3"] = distill.kd3.model_copy(update={"selection": False})
    if distill.deconfound.enabled:
        changes["deconfound"] = distill.deconfound.model_copy(update={"dictionary": "none"})
    return distill.model_copy(update=changes)


def possible(distill: Distill) -> bool:
    """Whether steps say what a training takes: not of methods that make their images before an epoch."""
    return distill.method not in POOL_FREE


def answer_bytes(network: str, classes: int, side: int, maps: bool) -> int:
    """Of a teacher's answer to one view, in float32; `maps`: whether the method wants its last ones."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net = build(network, classes, side).eval()
        last = net.features(torch.zeros(1, 3, side, side))
    return 4 * (classes + maps * last.numel())
