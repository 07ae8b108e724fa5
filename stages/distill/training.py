"""From the selection to a trained student: loads the inputs, runs the loop."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from stages.distill import checkpoint, phases, ranks
from stages.distill.cost import Cost, measure
from stages.distill.deconfound import attach, memory, read_dictionary
from stages.distill.holdout import held_out
from stages.distill.loop import Run
from stages.distill.methods import Choice, Method
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from stages.distill.pictures import read_pictures
from stages.distill.processes import of_this_machine
from stages.distill.start import Start, of_teacher, read_start
from webdistill.core.errors import UserError
from webdistill.core.files import read_table
from webdistill.harness.slices import Waiting
from webdistill.harness.stage import Stage
from webdistill.images.encoded import Encoded
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network, load_network
from webdistill.models.device import pick_device
from webdistill.models.precision import low_precision
from webdistill.models.zoo import build

SAVE_EVERY = 15.0  # seconds between saved states; decides nothing but what a kill costs


@dataclass(frozen=True)
class Prepared:
    """A run ready to start or to continue."""

    run: Run
    teacher: Network
    everything: Choice  # all images of the selection: the choice of methods that make none
    cost: Cost
    state: Path
    processes: int = 1  # that train it together
    start: Start | None = None  # what the student started from; None = fresh


def prepare(stage: Stage, selection: Path, pool: Path, teacher: Path) -> Prepared:
    """Pool on the device as one uint8 tensor or encoded, teacher frozen, student seeded or from given weights."""
    settings: Distill = stage.params
    device = pick_device(settings.device, "distill.device")
    processes = of_this_machine(settings, device)
    start = read_start(stage)
    torch.set_num_threads(stage.task.threads)
    torch.manual_seed(stage.task.seed)
    chosen = read_table(selection, ["id", "weight", "teacher_class", "confidence", "keyword_class"])
    guide = load_network(teacher)
    ids = chosen["id"].to_pylist()
    pictures = read_pictures(stage, pool, ids, device)
    stage.networks(settings.student, *guide.card.built_from)
    start = start or of_teacher(stage, guide)
    method = _method(stage, settings, guide, device, start)
    held = held_out(ids, settings.holdout if ids else 0.0)
    apart = _views(stage, pictures(held), guide) if held.any() else None
    ids = [name for name, out in zip(ids, held, strict=True) if not out]
    chosen = chosen.filter(pa.array(~held))
    views = _views(stage, pictures(~held), guide)
    weight = torch.tensor(chosen["weight"].to_pylist(), device=device)
    everything = Choice(
        keep=torch.full((len(ids),), method.needs_pool),
        pseudo_class=torch.tensor(chosen["teacher_class"].to_pylist(), dtype=torch.int64),
        confidence=torch.tensor(chosen["confidence"].to_pylist()),
    )
    task = stage.task.model_dump(include={"seed", "threads", "classes", "image_size"})
    low = low_precision(settings.precision, device)
    facts = (
        task,
        settings.decisive(),
        stage.inputs,
        str(device),
        low,
        torch.__version__,
        processes,
    )
    place = stage.scratch(*facts)
    run = Run(
        settings=settings,
        seed=stage.task.seed,
        views=views,
        teacher=guide.net,
        method=method,
        weight=weight / weight.mean(),
        ids=ids,
        classes=stage.task.classes,
        labels=torch.tensor(chosen["keyword_class"].to_pylist(), dtype=torch.int64, device=device),
        held=apart,
        folder=place,
    )
    cost = measure(method.student(), guide.net, settings, stage.task.image_size)
    return Prepared(run, guide, everything, cost, place / "state.pt", processes, start)


def _views(stage: Stage, images: Tensor | Encoded, guide: Network) -> Views:
    """Images [N, H, W, 3] uint8 on the device, or encoded, normalised as the teacher wants them."""
    return Views(
        images,
        guide.card.mean,
        guide.card.std,
        seed=stage.task.seed,
        min_scale=stage.params.min_scale,
        mixup=stage.params.mixup,
        shift=stage.params.shift,
    )


def _method(
    stage: Stage, settings: Distill, guide: Network, device: torch.device, start: Start | None
) -> Method:
    """The method with its student, compensated if asked for; it and the teacher are on the device from now on."""
    student = build(settings.student, len(stage.task.classes), stage.task.image_size)
    if start is not None:
        start.give(student)
    guide.net.to(device)
    method = build_method(settings, student.to(device), guide.net, stage.task.image_size)
    if settings.deconfound.enabled:
        dictionary = None
        if settings.deconfound.dictionary not in ("drawn", "constant"):
            file = f"data/prototypes/{settings.deconfound.dictionary}.safetensors"
            dictionary = read_dictionary(stage.input(file))
        attach(method, settings.deconfound, dictionary, guide.net.fc.in_features)
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    return method


def train(stage: Stage, prepared: Prepared) -> None:
    """Run the remaining epochs, saving the state as time goes by and at the end of every phase."""
    run = prepared.run
    stage.log(f"student {prepared.cost.sentence}")
    if prepared.cost.warning is not None:
        stage.log(f"warning: {prepared.cost.warning}")
    ends = phases.places(stage, run)
    done = _restored(run, prepared.state) or _restored(run, phases.latest(ends))
    if ranks.told(done) != done:
        raise UserError("the processes found different saved states; run the same command again")
    if done:
        stage.log(f"continues after epoch {done} of {run.settings.epochs}")
    per_epoch = run.steps_per_epoch * run.settings.batch_size
    total = (run.settings.epochs - done) * per_epoch
    saved = begun = time.monotonic()
    waiting = Waiting(stage.task.threads if run.device.type == "cpu" else 1)
    for _ in stage.progress(_steps(run, done), total=total, unit="img", size=lambda count: count):
        if word := waiting.word():
            stage.log(word)
        if len(run.rows) > done:  # an epoch has just ended
            done = len(run.rows)
            if ranks.rank():  # only the first writes
                continue
            if done in ends:
                checkpoint.save(run, ends[done], without_images=done <= run.blind)
                phases.forget(ends)
            if time.monotonic() - saved > SAVE_EVERY:
                checkpoint.save(run, prepared.state)
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
        return checkpoint.take(run, checkpoint.read_state(state))
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
        if not ranks.rank():
            state.unlink(missing_ok=True)
        raise UserError(
            f"{state} was damaged and has been removed ({type(error).__name__}); run again"
        ) from None


def _steps(run: Run, done: int) -> Iterator[int]:
    for number in range(done, run.settings.epochs):
        yield from run.epoch(number)
