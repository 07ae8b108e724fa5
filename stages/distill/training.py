"""From the selection to a trained student: loads the inputs, runs the loop, writes student and curve."""

from __future__ import annotations

import csv
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.distill.loop import Row, Run
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.core.errors import UserError
from webdistill.core.files import read_table, remove
from webdistill.core.stage import Stage
from webdistill.images.pool import load_images
from webdistill.images.sheet import contact_sheet
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network, load_network, save_network
from webdistill.models.cifar import parameters
from webdistill.models.zoo import build

SHOWN_VIEWS = 8  # views per image on the sheet that tracking keeps
SAVE_EVERY = 15.0  # seconds between saved states; decides nothing but what a kill costs


@dataclass(frozen=True)
class Prepared:
    """A run ready to start or to continue."""

    run: Run
    teacher: Network
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
    chosen = read_table(selection, ["id", "weight"])
    guide = load_network(teacher)
    ids, images = load_images(
        pool, chosen["id"].to_pylist(), size=stage.task.image_size, workers=stage.task.threads
    )
    student = build(settings.student, len(stage.task.classes))
    student = student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    run = Run(
        settings=settings,
        seed=stage.task.seed,
        views=views,
        teacher=guide.net,
        method=build_method(settings, student),
        weight=weight / weight.mean(),
        ids=ids,
    )
    task = stage.task.model_dump(include={"seed", "threads", "classes", "image_size"})
    place = stage.scratch(task, settings.model_dump(), stage.inputs, str(device), torch.__version__)
    return Prepared(run, guide, place / "state.pt")


def train(stage: Stage, prepared: Prepared) -> None:
    """Run the remaining epochs, saving the state as time goes by."""
    run = prepared.run
    done = _restored(prepared)
    if done:
        stage.log(f"continues after epoch {done} of {run.settings.epochs}")
    per_epoch = run.steps_per_epoch * run.settings.batch_size
    total = (run.settings.epochs - done) * per_epoch
    saved = begun = time.monotonic()
    for _ in stage.progress(_steps(run, done), total=total, unit="img", size=lambda count: count):
        if len(run.rows) > done:  # an epoch has just ended
            done = len(run.rows)
            if time.monotonic() - saved > SAVE_EVERY:
                run.save(prepared.state)
                saved = time.monotonic()
    seconds = time.monotonic() - begun
    if total:
        stage.track_metrics({"images_per_second": total / max(seconds, 1e-9)})


def _restored(prepared: Prepared) -> int:
    """Epochs that an earlier, killed run finished; 0 when there is none or its state is unreadable."""
    if not prepared.state.exists():
        return 0
    try:
        return prepared.run.restore(prepared.state)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        prepared.state.unlink()
        raise UserError(
            f"{prepared.state} was damaged and has been removed ({type(error).__name__}); run again from epoch 1"
        ) from None


def _steps(run: Run, done: int) -> Iterator[int]:
    for number in range(done, run.settings.epochs):
        yield from run.epoch(number)


def export(stage: Stage, prepared: Prepared) -> None:
    """Student, curve, metrics. The last epoch counts; no test image has been seen."""
    run, card = prepared.run, prepared.teacher.card
    student = run.method.student()
    with stage.output("student") as folder:
        save_network(
            folder,
            student.cpu(),
            {
                "name": f"{run.settings.student} from {card.architecture} ({run.settings.method})",
                "architecture": run.settings.student,
                "classes": list(card.classes),
                "image_size": stage.task.image_size,
                "mean": list(card.mean),
                "std": list(card.std),
                "parameters": parameters(student),
                "trained_on": f"{run.count} selected web images, teacher {card.sha256[:16]}",
            },
        )
    with stage.output("curve.csv") as path:
        _write_curve(path, run.rows)
    stage.picture("views.png", _views_sheet(run))
    for row in run.rows:
        for name, value in row.items():
            if name != "epoch":
                stage.curve(name, value, int(row["epoch"]))
    last = run.rows[-1]
    stage.metrics(
        {
            "images": run.count,
            "epochs": run.settings.epochs,
            "steps": run.settings.epochs * run.steps_per_epoch,
            "loss": round(last["loss"], 6),
            "train_agreement": round(last["agreement"], 6),
            "student_parameters": parameters(student),
        }
    )
    stage.log(
        f"loss {last['loss']:.4f}, agreement with the teacher on views {last['agreement']:.1%}"
    )
    stage.when_published(lambda: remove(prepared.state.parent))


def _views_sheet(run: Run) -> bytes:
    """What the student saw: rows of one image each, its first views side by side."""
    rows = torch.arange(min(12, run.count), device=run.device)
    shown = torch.stack([run.views(number, rows) for number in range(SHOWN_VIEWS)], dim=1)
    pixels = shown.flatten(0, 1) * run.views.std + run.views.mean
    images = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return contact_sheet(images.cpu().numpy(), columns=SHOWN_VIEWS, zoom=3)


def _write_curve(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: int(v) if k == "epoch" else round(v, 6) for k, v in row.items()})
