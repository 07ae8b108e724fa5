"""From the selection to a trained student: loads the inputs, runs the loop."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.distill import phases
from stages.distill.deconfound import attach, memory, read_dictionary
from stages.distill.loop import Run, read_state
from stages.distill.methods import Choice
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.core.stage import Stage
from webdistill.images.pool import load_images
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network, load_network
from webdistill.models.names import own_code
from webdistill.models.zoo import build

SAVE_EVERY = 15.0  # seconds between saved states; decides nothing but what a kill costs


@dataclass(frozen=True)
class Prepared:
    """A run ready to start or to continue."""

    run: Run
    teacher: Network
    everything: Choice  # all images of the selection: the choice of methods that make none
    state: Path


def pick_device(wanted: str) -> torch.device:
    """`auto` is cuda where there is one. Raises UserError when cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "distill.device = cuda, but torch sees no CUDA device; set it to auto or cpu"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def prepare(stage: Stage, selection: Path, pool: Path, teacher: Path) -> Prepared:
    """Pool on the device as one uint8 tensor, teacher frozen, student fresh (seeded)."""
    settings: Distill = stage.params
    device = pick_device(settings.device)
    torch.set_num_threads(stage.task.threads)
    torch.manual_seed(stage.task.seed)
    chosen = read_table(selection, ["id", "weight", "teacher_class", "confidence", "keyword_class"])
    guide = load_network(teacher)
    ids, images = load_images(
        pool, chosen["id"].to_pylist(), size=stage.task.image_size, workers=stage.task.threads
    )
    for file in own_code(settings.student, *guide.card.built_from):
        stage.input(file)
    student = build(settings.student, len(stage.task.classes), stage.task.image_size).to(device)
    guide.net.to(device)
    views = Views(
        torch.from_numpy(images).to(device),
        guide.card.mean,
        guide.card.std,
        seed=stage.task.seed,
        min_scale=settings.min_scale,
        mixup=settings.mixup,
    )
    weight = torch.tensor(chosen["weight"].to_pylist(), device=device)
    everything = Choice(
        keep=torch.ones(len(ids), dtype=torch.bool),
        pseudo_class=torch.tensor(chosen["teacher_class"].to_pylist()),
        confidence=torch.tensor(chosen["confidence"].to_pylist()),
    )
    method = build_method(settings, student, guide.net, stage.task.image_size)
    if settings.deconfound.enabled:
        dictionary = None
        if settings.deconfound.dictionary != "drawn":
            dictionary = read_dictionary(stage.input("data/prototypes/prototypes.safetensors"))
        attach(method, settings.deconfound, dictionary, guide.net.fc.in_features)
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    run = Run(
        settings=settings,
        seed=stage.task.seed,
        views=views,
        teacher=guide.net,
        method=method,
        weight=weight / weight.mean(),
        ids=ids,
        classes=stage.task.classes,
        labels=torch.tensor(chosen["keyword_class"].to_pylist(), device=device),
    )
    task = stage.task.model_dump(include={"seed", "threads", "classes", "image_size"})
    facts = (task, settings.model_dump(), stage.inputs, str(device), run.low_precision)
    place = stage.scratch(*facts, torch.__version__)
    return Prepared(run, guide, everything, place / "state.pt")


def train(stage: Stage, prepared: Prepared) -> None:
    """Run the remaining epochs, saving the state as time goes by and at the end of every phase."""
    run = prepared.run
    ends = phases.places(stage, run)
    done = _restored(run, prepared.state) or _restored(run, phases.latest(ends))
    if done:
        stage.log(f"continues after epoch {done} of {run.settings.epochs}")
    per_epoch = run.steps_per_epoch * run.settings.batch_size
    total = (run.settings.epochs - done) * per_epoch
    saved = begun = time.monotonic()
    for _ in stage.progress(_steps(run, done), total=total, unit="img", size=lambda count: count):
        if len(run.rows) > done:  # an epoch has just ended
            done = len(run.rows)
            if done in ends:
                run.save(ends[done])
                phases.forget(ends)
            if time.monotonic() - saved > SAVE_EVERY:
                run.save(prepared.state)
                saved = time.monotonic()
    seconds = time.monotonic() - begun
    if total:
        stage.track_metrics({"images_per_second": total / max(seconds, 1e-9)})
    compensation = run.method.student().compensation
    if compensation is not None:
        shares, size = run.compensation_overhead(), memory(compensation)
        found = {"deconfound_overhead": statistics.median(shares), "deconfound_memory_mib": size}
        stage.track_metrics(found)
        stage.log(
            f"de-confounding adds {statistics.median(shares):.1%} to the time of a step "
            f"({shares[0]:.1%} to {shares[-1]:.1%} in {len(shares)} pairs) and {size:.1f} MiB"
        )


def _restored(run: Run, state: Path | None) -> int:
    """Epochs that an earlier run finished, by its saved state; 0 when there is none."""
    if state is None or not state.exists():
        return 0
    try:
        return run.take(read_state(state))
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # the state is whole
        raise
    except OSError as error:
        raise UserError(f"cannot read {state}: {error}") from None
    except (
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        state.unlink(missing_ok=True)
        raise UserError(
            f"{state} was damaged and has been removed ({type(error).__name__}); run again"
        ) from None


def _steps(run: Run, done: int) -> Iterator[int]:
    for number in range(done, run.settings.epochs):
        yield from run.epoch(number)
