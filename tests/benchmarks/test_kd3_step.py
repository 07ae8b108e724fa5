"""The benchmark compares the same mathematics, and its program runs from end to end."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import pixels
from benchmarks.naive_kd3 import NaiveKd3
from benchmarks.plan import CLASSES, EPOCHS, SECTIONS, SIZE, VARIANTS, Setting
from benchmarks.variants import distill_settings, make, make_teacher, make_views
from stages.distill.loop import Run
from stages.distill.methods import Batch
from stages.distill.methods.kd3 import Kd3, draw_mixture
from tests.benchmarks.programs import run
from webdistill.core.errors import UserError
from webdistill.models.projected import Projected
from webdistill.models.zoo import build

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SETTING = Setting("resnet8", "resnet8", batch=16, threads=1, workers=0, device="cpu")
NOISE = pixels.load("synthetic", 64)


class Pair:
    """Our method and the straightforward version with equal weights, in float32.

    `sure`: factor of the teacher's logits; a small one lets the loss's weights differ between images.
    """

    def __init__(self, sure: float = 1.0) -> None:
        torch.manual_seed(3)
        variant = replace(VARIANTS["later"], channels_last=False)
        settings = distill_settings(variant, SETTING, CPU)
        self.settings = settings.model_copy(update={"precision": "float32"})
        self.pool = torch.from_numpy(NOISE)
        self.teacher = make_teacher("resnet14", self.pool, self.settings)
        with torch.no_grad():
            self.teacher.fc.weight.mul_(sure)
        self.ours = Kd3(build("resnet8", CLASSES), self.teacher, SIZE, 4.0, self.settings.kd3)
        net = self.ours.net
        assert isinstance(net, Projected)
        self.naive = NaiveKd3(
            self.teacher, copy.deepcopy(net), NOISE, batch_size=SETTING.batch, workers=0
        )
        self.naive.head.load_state_dict(self.ours.head.state_dict())
        self.naive.teacher_head.load_state_dict(self.ours.teacher_head.state_dict())
        self.views = make_views(self.pool, self.settings)

    def run(self) -> Run:
        return Run(
            settings=self.settings,
            seed=0,
            views=self.views,
            teacher=self.teacher,
            method=self.ours,
            weight=torch.ones(len(NOISE)),
            ids=[str(at) for at in range(len(NOISE))],
            classes=tuple("abcdefghij"),
        )


def _losses(pair: Pair, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """-> (ours, the straightforward ones): feature and contrastive loss of one batch with the same mixtures."""
    rows = torch.arange(SETTING.batch)
    images = pair.views(0, rows).to(dtype)
    for net in (
        pair.teacher,
        pair.ours,
        pair.naive.student,
        pair.naive.head,
        pair.naive.teacher_head,
    ):
        net.to(dtype)
    with torch.no_grad():
        maps = pair.teacher.features(images)
        answers = pair.teacher.classify(maps)
    weight = torch.ones(len(rows), dtype=dtype)
    batch = Batch(images, answers, maps, weight, rows, np.random.default_rng(5))
    ours, _ = pair.ours.train().losses(batch)
    share, partner = draw_mixture(np.random.default_rng(5), len(rows), CPU)
    pair.naive.student.train()
    features, contrast = pair.naive.losses(images.contiguous(), share.to(dtype), partner)
    return [ours["features"], ours["contrast"]], [features, 0.001 * contrast]


def test_the_losses_of_a_batch_are_the_same() -> None:
    ours, naive = (torch.stack(each).detach() for each in _losses(Pair(0.02), torch.float32))
    assert float(naive.min()) > 1e-3
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=0)


def test_the_gradients_of_a_batch_are_the_same() -> None:
    """In float64: through batch normalisation over few images float32 rounding alone reaches 1e-3."""
    pair = Pair(0.02)
    for losses in _losses(pair, torch.float64):
        torch.stack([each.double() for each in losses]).sum().backward()
    mine = [pair.ours.net, pair.ours.head, pair.ours.teacher_head]
    other = [pair.naive.student, pair.naive.head, pair.naive.teacher_head]
    for a, b in zip(_parameters(mine), _parameters(other), strict=True):
        assert (a.grad is None) == (b.grad is None) == (not a.requires_grad)
        if a.grad is not None and b.grad is not None:
            assert float((a.grad - b.grad).norm()) <= 1e-5 * float(b.grad.norm())
            assert float(b.grad.norm()) > 0


def _parameters(nets: list[nn.Module]) -> list[nn.Parameter]:
    return [parameter for net in nets for parameter in net.parameters()]


@pytest.mark.parametrize("epoch", [0, EPOCHS // 4, EPOCHS - 1])
def test_both_select_the_same_images(epoch: int) -> None:
    pair = Pair()
    every = pair.views.plain(torch.arange(len(NOISE)))
    for net in (
        pair.ours.net,
        pair.naive.student,
    ):  # BN statistics that let the student's answers differ
        with torch.no_grad():
            net.train()(every)
    choice = pair.ours.select(pair.run().pool, epoch, EPOCHS)
    assert choice is not None
    kept = choice.keep.nonzero()[:, 0].tolist()
    assert pair.naive.select(epoch) == kept

    assert 0 < len(kept) <= len(NOISE)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "compiled"])
def test_an_epoch_of_every_variant_trains_on_as_many_images_as_there_are(name: str) -> None:
    ready = make(VARIANTS[name], SETTING, NOISE)
    assert [ready.epoch(), ready.epoch()] == [64, 64]
    assert 0 < ready.kept() <= 1


def test_the_straightforward_version_goes_through_the_kept_images_again_until_the_epoch_is_full() -> (
    None
):
    naive = Pair().naive
    assert naive.epoch(0) == 64
    assert len(naive.kept) < 64


def test_the_switches_do_what_they_say() -> None:
    plain, other = (distill_settings(VARIANTS[n], SETTING, CPU) for n in ("always", "precision"))
    assert {plain.precision, other.precision} == {"float32", "bfloat16"}
    assert plain.kd3.selection
    assert not distill_settings(VARIANTS["unselected"], SETTING, CPU).kd3.selection
    pool = torch.from_numpy(NOISE)
    rows = torch.arange(4)
    for last in (True, False):
        views = make_views(pool, plain, channels_last=last)
        for images in (views(0, rows), views.plain(rows)):
            assert images.is_contiguous() != last
            assert images.is_contiguous(memory_format=torch.channels_last) == last


def test_every_variant_stands_in_a_table() -> None:
    assert {name for section in SECTIONS for name, _ in section.rows} == set(VARIANTS)


def test_the_program_prints_a_table_and_writes_the_same_numbers(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(
        "kd3_step",
        "--images", "synthetic", "--images-count", "64", "--batch", "16", "--repeat", "1", "--threads", "1",
        "--teacher", "resnet8", "--student", "resnet8", "--workers", "0", "--device", "cpu",
        "--variants", "naive", "later", "--out", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    speeds = {name: found["results"][name]["images_per_second"] for name in ("naive", "later")}
    ratio = speeds["later"] / speeds["naive"]
    assert {row["variant"]: row["ratio"] for row in found["ratios"]} == {
        "naive": 1.0,
        "later": pytest.approx(ratio),
    }
    assert f"| {ratio:.2f} | {speeds['later']:.0f} |" in done.stdout
    assert all(found["results"][name]["peak_mib"] > 50 for name in speeds)


def test_absent_images_are_an_error_of_one_line_and_noise_must_be_asked_for(tmp_path: Path) -> None:
    done = run("kd3_step", "--images", str(tmp_path / "nothing"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "--images synthetic" in line
    with pytest.raises(UserError, match="no Parquet files"):
        pixels.load(str(tmp_path), 4)
