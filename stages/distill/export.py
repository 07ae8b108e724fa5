"""From a finished run to the stage's outputs: student, curve, selection history, pictures, metrics."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from stages.distill import confounders
from stages.distill.deconfound import MEASURED, PARTS
from stages.distill.history import Row
from stages.distill.loop import Run
from stages.distill.training import Prepared
from webdistill.core.files import remove, write_table
from webdistill.harness.stage import Stage
from webdistill.images.sheet import contact_sheet
from webdistill.models.checkpoint import save_network
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected

SHOWN_ROWS = 12  # images, one a row
SHOWN_VIEWS = 8  # views per image on the sheet that tracking keeps
SHOWN_IMAGES = 48  # images on each half of the sheet of kept and left images
MOST_CLASSES = 100  # beyond that curves per class say less than they cost


def export(stage: Stage, prepared: Prepared) -> None:
    """Write everything. The last epoch counts; no test image has been seen."""
    run = prepared.run
    if not run.history.rows:
        run.history.add(0, prepared.everything)
    found = _confounders(run)
    student = run.method.student().cpu()
    with stage.output("student") as folder:
        save_network(
            folder,
            student,
            _card(prepared, student, stage.task.image_size),
            run.settings.deconfound.inference,
        )
    with stage.output("curve.csv") as path:
        _write_rows(path, run.rows)
    with stage.output("selection_history.csv") as path:
        _write_rows(path, run.history.rows)
    with stage.output("selection_history.parquet") as path:
        write_table(_per_image(run), path)
    with stage.output("confounders.csv") as path:
        names = run.forward.spread_of(run.ids, MEASURED) if run.method.needs_pool else ()
        confounders.write(path, found, run.classes, names)
    with stage.output("pictures") as path:
        for name, data in _pictures(run).items():
            path.mkdir(exist_ok=True)
            (path / name).write_bytes(data)
            stage.artifact(path / name)
    _track(stage, run)
    stage.metrics(prepared.cost.metrics)
    _tell(stage, run)
    stage.when_published(lambda: remove(prepared.state.parent))


def _confounders(run: Run) -> confounders.Confounders | None:
    if run.gauge is None:
        return None
    images = run.gauge.images(run.method, run.settings.epochs - 1)
    return confounders.look(run.method.student(), images, run.forward)


def _tell(stage: Stage, run: Run) -> None:
    """Figures and a sentence about the last epoch."""
    last, chosen = run.rows[-1], run.history.rows[-1]
    stage.metrics(
        {
            "images": run.count if run.method.needs_pool else 0,
            "lr": run.settings.rates.lr,
            "weight_decay": run.settings.rates.weight_decay,
            "temperature": run.settings.softness,
            "epochs": run.settings.epochs,
            "steps": run.settings.epochs * run.steps_per_epoch,
            "loss": round(last["loss"], 6),
            "train_agreement": round(last["agreement"], 6),
            "kept_share": round(chosen["kept_share"], 6),
            "empty_choices": run.history.empty,
        }
    )
    if run.holdout is not None:
        names = ("holdout_agreement", "holdout_kl")
        stage.metrics({"holdout_images": run.holdout.count} | {n: round(last[n], 6) for n in names})
        stage.log(
            f"on {run.holdout.count:,} held-out images: agreement {last[names[0]]:.1%}, KL {last[names[1]]:.3f} nats"
        )
    stage.metrics({name: round(value, 6) for name, value in _noted(run).items()})
    if run.gauge is not None:
        parts = {name: round(last[name], 6) for name in PARTS}
        stage.metrics(parts)
        constant, by_image = parts.values()
        stage.log(
            f"compensation: {constant:.3f} the same for every image, {by_image:.3f} by image, rms"
        )
    stage.log(
        f"loss {last['loss']:.4f}, agreement with the teacher on views {last['agreement']:.1%}, "
        + (
            f"{chosen['kept']:,.0f} of {run.count:,} images kept at the end"
            if run.method.needs_pool
            else f"no image of the pool was used, {run.settings.method} makes its own"
        )
    )
    if run.history.empty:
        stage.log(
            f"{run.history.empty} times the method would have kept no image; it went on with those of before"
        )


def _noted(run: Run) -> Row:
    """The method's own figures, each of the last epoch that had it."""
    return {name: row[name] for row in run.rows for name in run.method.noted if name in row}


def _card(prepared: Prepared, student: Classifier, image_size: int) -> dict[str, object]:
    settings, card = prepared.run.settings, prepared.teacher.card
    images = f"{prepared.run.count} selected images"
    if not prepared.run.method.needs_pool:
        images = f"images that {settings.method} made"
    found: dict[str, object] = {
        "name": f"{settings.student} from {card.architecture} ({settings.method})",
        "architecture": settings.student,
        "classes": list(card.classes),
        "image_size": image_size,
        "mean": list(card.mean),
        "std": list(card.std),
        "parameters": prepared.cost.student.parameters,
        "trained_on": (
            f"{images}, teacher {card.sha256[:16]}, {_start(prepared)}"
            f"{settings.rates.optimizer}, lr {settings.rates.lr:g}, temperature {settings.softness:g}"
        ),
    }
    if isinstance(student, Projected):
        owner = card.projector.classifier_of if card.projector is not None else card.architecture
        found["projector"] = {
            "classifier_of": owner,
            "side": student.side,
            "inner": student.inner,
            "signed": student.signed,
        }
    return found


def _start(prepared: Prepared) -> str:
    start = prepared.start
    return "" if start is None else f"started from {start.source} {start.sha256[:16]}, "


def _track(stage: Stage, run: Run) -> None:
    """Curves, for tracking only."""
    for row in run.rows:
        for name, value in row.items():
            if name != "epoch":
                stage.curve(name, value, int(row["epoch"]))
    for row in run.history.rows:
        for name, value in row.items():
            if name != "epoch" and (len(run.classes) <= MOST_CLASSES or "/" not in name):
                stage.curve(f"selection/{name}", value, int(row["epoch"]))


def _pictures(run: Run) -> dict[str, bytes]:
    """File name -> PNG: the first views, images kept most and least, what the method made of images."""
    made = run.moments.made
    if not run.method.needs_pool:
        over_training = torch.stack(made, 1).flatten(0, 1)
        return {"over_training.png": _sheet(run, over_training, len(made))}
    found = {"views.png": _views_sheet(run)}
    if len(run.history.rows) > 1 or run.history.rows[0]["kept_share"] < 1:
        found["kept_most_then_least.png"] = _kept_sheet(run)
    if made:
        columns = [run.moments.shown()[0], *made]
        found["over_training.png"] = _sheet(
            run, torch.stack(columns, 1).flatten(0, 1), len(columns)
        )
    return found


def _per_image(run: Run) -> pa.Table:
    """id, times_kept, kept (one bit per choice, the first in the lowest bit of the first byte)."""
    return pa.table(
        {
            "id": pa.array(list(run.ids), pa.string()),
            "times_kept": pa.array(run.history.times_kept().numpy(), pa.int32()),
            "kept": pa.array(run.history.bits(), pa.binary()),
        }
    )


def _views_sheet(run: Run) -> bytes:
    """What the student saw: rows of one image each, its first views side by side."""
    rows = torch.arange(min(SHOWN_ROWS, run.count), device=run.device)
    shown = torch.stack([run.views(number, rows) for number in range(SHOWN_VIEWS)], dim=1)
    return _sheet(run, shown.flatten(0, 1), SHOWN_VIEWS)


def _kept_sheet(run: Run) -> bytes:
    """Upper half: the images kept most often; lower half: those kept least."""
    order = run.history.times_kept().argsort(descending=True, stable=True)
    half = min(SHOWN_IMAGES, len(order) // 2)
    rows = torch.cat([order[:half], order[len(order) - half :]]).to(run.device)
    return _sheet(run, run.views.plain(rows), 12)


def _sheet(run: Run, images: Tensor, columns: int) -> bytes:
    pixels = images * run.views.std + run.views.mean
    shown = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return contact_sheet(shown.cpu().numpy(), columns=columns, zoom=3)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))  # phases differ in losses
        writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: int(v) if float(v).is_integer() else round(v, 6) for k, v in row.items()}
            )
