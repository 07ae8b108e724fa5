"""Labels of images, the classes that their keywords name: who gets them, and what becomes of images without one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.distill import export
from stages.distill.checkpoint import restore, save
from stages.distill.loop import Run
from stages.distill.methods import Batch, build
from stages.distill.params import Distill
from tests.stages.short_runs import state
from webdistill.core.errors import UserError
from webdistill.harness.params import load
from webdistill.images.views import Views
from webdistill.models.zoo import build as network

ROOT = Path(__file__).parents[2]
COUNT, SIZE = 24, 12
LABELS = torch.tensor([2, -1, 0, 1] * 6)
SETTINGS = {
    "student": "resnet8", "epochs": 4, "steps_per_epoch": 3, "batch_size": 6, "lr": 0.05, "warmup_epochs": 0.0,
    "views": 2, "precision": "float32", "device": "cpu", "augkd.latent": 8, "augkd.free_epochs": 1,
    "augkd.anchor_epochs": 1,
}  # fmt: skip


def make(method: str, labels: Tensor | None = LABELS) -> Run:
    overrides = [f"distill.{k}={json.dumps(v)}" for k, v in (SETTINGS | {"method": method}).items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = network("resnet8", 3).eval().requires_grad_(False)
    views = Views(pool, (0.5,) * 3, (0.25,) * 3, seed=1, min_scale=0.5, mixup=0.2)
    made = build(settings, network(settings.student, 3), teacher, SIZE)
    weight, ids = torch.linspace(0.5, 1.5, COUNT), [f"image{i}" for i in range(COUNT)]
    return Run(settings, 1, views, teacher, made, weight, ids, ("a", "b", "c"), labels)


def watch(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """-> the batches that will have been trained on."""
    seen, losses = [], run.method.losses

    def noted(batch: Batch) -> Any:
        seen.append(batch)
        return losses(batch)

    monkeypatch.setattr(run.method, "losses", noted)
    return seen


@pytest.mark.parametrize("method", ["augkd", "supervised"])
def test_images_without_a_class_are_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    run = make(method)
    seen = watch(run, monkeypatch)
    for epoch in range(2):
        list(run.epoch(epoch))
    save(run, tmp_path / "state.pt")
    resumed = make(method)
    restore(resumed, tmp_path / "state.pt")
    later = watch(resumed, monkeypatch)
    for epoch in range(2, 4):
        list(resumed.epoch(epoch))
    batches = seen + later
    assert len(batches) == 12
    rows = torch.cat([batch.rows for batch in batches if len(batch.images)])
    assert set(rows.tolist()) == {i for i in range(COUNT) if i % 4 != 1}
    for number, batch in enumerate(batches):
        if not len(batch.images):
            assert batch.labels is None
            continue
        assert batch.labels is not None
        assert torch.equal(batch.labels, LABELS[batch.rows])
        assert torch.equal(batch.weight, run.weight[batch.rows])
        assert batch.step == number
    (choice,) = resumed.history.rows
    assert [choice[key] for key in ("epoch", "kept", "class/a", "class/b", "class/c")] == [
        1, 18, 6, 6, 6,
    ]  # fmt: skip
    assert choice["kept_share"] == pytest.approx(0.75)


@pytest.mark.parametrize("labels", [None, torch.full((COUNT,), -1)], ids=["none", "all -1"])
@pytest.mark.parametrize("method", ["augkd", "supervised"])
def test_no_class_at_all_is_refused_in_one_line(method: str, labels: Tensor | None) -> None:
    run = make(method, labels)
    with pytest.raises(UserError, match="no selected image has a keyword that names one of") as hit:
        list(run.epoch(0))
    assert len(str(hit.value).splitlines()) == 1
    assert not run.rows
    other = make("kd", labels)
    list(other.epoch(0))
    assert len(other.kept) == COUNT, "no other method asks for a class"


def test_a_module_without_images_asks_the_teacher_nothing_about_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make("augkd")
    seen = watch(run, monkeypatch)
    for epoch in range(4):
        list(run.epoch(epoch))
        assert bool(run.feed.answers.kept) == (epoch > 1)  # anchors are made of images alone
    assert [len(batch.images) for batch in seen] == [0] * 3 + [6] * 9
    assert [len(batch.teacher_logits) for batch in seen] == [0] * 6 + [6] * 6


def test_moments_are_of_the_first_images_with_a_class_and_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, seen = make("augkd"), []

    def noted(images: Tensor, labels: Tensor) -> Tensor:
        seen.append((images, labels))
        return images

    monkeypatch.setattr(run.method, "moment", noted)
    for epoch in range(run.phases[0] or 1):
        list(run.epoch(epoch))
    assert set(export._pictures(run)) == {
        "views.png", "kept_most_then_least.png", "over_training.png",
    }  # fmt: skip
    ((images, labels),) = seen
    rows = torch.tensor([i for i in range(COUNT) if i % 4 != 1][:12])
    assert torch.equal(images, run.views.plain(rows))
    assert torch.equal(labels, LABELS[rows])


def test_the_supervised_loss_is_the_weighted_cross_entropy() -> None:
    run, rows = make("supervised"), torch.tensor([0, 2, 3, 22])
    batch = run.feed.batch(1, rows, np.random.default_rng(0), 0)
    twin = copy.deepcopy(run.method.student()).train()
    losses, logits = run.method.train().losses(batch)
    with torch.no_grad():
        student = twin(run.views(1, rows))
    wanted = 0.0
    for row, label, weight in zip(student, LABELS[rows], run.weight[rows], strict=True):
        wanted -= float(weight) * float(torch.softmax(row.double(), 0)[label].log()) / 4
    assert {name: float(loss.detach()) for name, loss in losses.items()} == {
        "label": pytest.approx(wanted, rel=1e-5)
    }
    torch.testing.assert_close(logits.detach(), student)


def test_supervised_learning_ignores_the_teacher() -> None:
    one, other = make("supervised"), make("supervised")
    other.teacher.fc.weight.zero_()
    nn.init.normal_(other.teacher.fc.bias)
    for epoch in range(2):
        for run in (one, other):
            list(run.epoch(epoch))
    theirs = state(other.method)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in state(one.method).items())
    assert [row["loss"] for row in one.rows] == [row["loss"] for row in other.rows]
