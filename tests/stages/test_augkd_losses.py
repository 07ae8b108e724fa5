"""AuG-KD's losses and schedule of mixtures against naive loops and closed forms (arXiv 2403.07030)."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.distill.method_params import AugKdSettings
from stages.distill.methods.augkd_losses import (
    anchor_losses,
    encoder_loss,
    energy,
    image_share,
    mixture,
    uncertainty,
)
from stages.distill.methods.statistics import statistics_gap
from stages.distill.params import Distill
from webdistill.harness.params import load
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
DIMENSIONS = 8


def settings_of(**changes: Any) -> AugKdSettings:
    overrides = [f"distill.augkd.{key}={json.dumps(value)}" for key, value in changes.items()]
    settings = load(ROOT / "params.yaml", overrides).sections["distill"]
    assert isinstance(settings, Distill)
    return settings.augkd


def frozen_teacher() -> Classifier:
    torch.manual_seed(0)
    return build("resnet8", 3).eval().requires_grad_(False)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


# -- confidence, anchor, encoder, mixtures ---------------------------------------------------------------------
def softmax(row: list[float]) -> list[float]:
    return [math.exp(value) / sum(math.exp(v) for v in row) for value in row]


def test_uncertainties_equal_the_naive_formulas_and_fall_with_confidence() -> None:
    torch.manual_seed(1)
    logits = 2 * torch.randn(5, 4).double()
    for row, one, other in zip(
        logits.tolist(), uncertainty(logits, "energy"), uncertainty(logits, "max_softmax"),
        strict=True,
    ):  # fmt: skip
        assert float(one) == pytest.approx(-math.log(sum(math.exp(v) for v in row)), abs=1e-12)
        assert float(other) == pytest.approx(1 - max(softmax(row)), abs=1e-12)
    sure, flat = torch.tensor([[9.0, 0, 0]]), torch.zeros(1, 3)
    for kind in ("energy", "max_softmax"):
        assert float(uncertainty(sure, kind)) < float(uncertainty(flat, kind)) - 0.5
    assert float(energy(torch.tensor([[900.0, 0.0]]))) == -900


@pytest.mark.parametrize("kind", ["energy", "max_softmax"])
def test_anchor_losses_equal_the_naive_loop(kind: str) -> None:
    torch.manual_seed(2)
    logits, mask = torch.randn(5, 3).double(), torch.rand(5, 4).double()
    labels = torch.tensor([0, 2, 1, 1, 0])
    found = anchor_losses(logits, mask, labels, settings_of(uncertainty=kind, mask_ratio=0.4))
    doubt = label = ones = 0.0
    for row, part, y in zip(logits.tolist(), mask.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        doubt += (1 - max(p) if kind == "max_softmax" else -math.log(sum(map(math.exp, row)))) / 5
        label -= 0.1 * math.log(p[y]) / 5
        ones += sum(part) / 5
    wanted = {"uncertainty": doubt, "mask": abs(ones - 4 * 0.6), "anchor_label": label}
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(wanted, abs=1e-12)


def test_the_masks_penalty_is_a_mean_over_the_batch_and_zero_where_the_ratio_is_met() -> None:
    torch.manual_seed(3)
    settings, mask = settings_of(mask_ratio=0.25), torch.rand(4, DIMENSIONS)

    def penalty(mask: Tensor) -> float:
        labels = torch.zeros(len(mask), dtype=torch.int64)
        return float(anchor_losses(torch.zeros(len(mask), 3), mask, labels, settings)["mask"])

    assert penalty(mask.repeat(7, 1)) == pytest.approx(penalty(mask), abs=1e-5)
    assert penalty(mask) > 0.1
    met = torch.tensor([[1.0] * 6 + [0.0] * 2, [0.0] * 2 + [1.0] * 6])
    assert penalty(met) == 0
    assert penalty(torch.ones(4, DIMENSIONS)) == pytest.approx(2)
    assert penalty(torch.zeros(4, DIMENSIONS)) == pytest.approx(6)


def test_the_encoders_loss_equals_the_naive_loop() -> None:
    torch.manual_seed(4)
    mean, log_variance, z, noise = (torch.randn(3, 4).double() for _ in range(4))
    error = divergence = 0.0
    for b in range(3):
        for d in range(4):
            m, v = float(mean[b, d]), math.exp(float(log_variance[b, d]))
            drawn = m + math.sqrt(v) * float(noise[b, d])
            error += (drawn - float(z[b, d])) ** 2 / 12
            divergence += 0.5 * (v + m**2 - 1 - math.log(v)) / 12
    found = float(encoder_loss(mean, log_variance, z, noise))
    assert found == pytest.approx(error + 0.00025 * divergence, abs=1e-12)
    assert float(encoder_loss(0 * z, 0 * z, noise, noise)) == 0


def test_the_images_share_begins_at_b_and_is_one_from_a_of_the_epochs_on() -> None:
    for a, b, epochs in ((0.4, 0.2, 10), (0.6, 0.0, 20), (1.0, 0.5, 8), (2.0, 0.1, 4)):
        shares = [image_share(epoch, epochs, a, b) for epoch in range(epochs + 1)]
        for epoch, share in enumerate(shares):
            naive = b + (1 - b) * epoch / (a * epochs)
            assert share == pytest.approx(1.0 if naive > 1 else naive, abs=1e-12)
        assert shares[0] == b
        assert all(one <= other for one, other in pairwise(shares))
        assert [s == pytest.approx(1) for s in shares] == [
            e >= a * epochs for e in range(epochs + 1)
        ]


def test_a_mixture_of_share_one_is_the_image_and_of_share_zero_the_dream() -> None:
    torch.manual_seed(5)
    images, dreams = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(mixture(1.0, images, dreams), images)
    assert torch.equal(mixture(0.0, images, dreams), dreams)
    torch.testing.assert_close(mixture(0.3, images, dreams), dreams + 0.3 * (images - dreams))


# -- statistics of the teacher's normalisation -----------------------------------------------------------------
@torch.no_grad()
def test_a_batch_with_the_teachers_own_statistics_has_no_gap_and_another_one_has() -> None:
    teacher, images = frozen_teacher(), torch.randn(12, 3, 14, 14)

    def adopt(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        norm.running_mean.copy_(x.mean(1))
        norm.running_var.copy_((x - x.mean(1, keepdim=True)).square().mean(1))

    hooks = [norm.register_forward_pre_hook(adopt) for norm in norms(teacher)]
    teacher(images)
    for hook in hooks:
        hook.remove()
    with statistics_gap(teacher) as own:
        answer = teacher(images)
    with statistics_gap(teacher) as other:
        teacher(2 * images.flip(0) + 0.5)
    assert len(own) == len(other) == len(norms(teacher)) == 7
    assert max(float(gap) for gap in own) < 1e-4
    assert min(float(gap) for gap in other) > 1e-2
    with statistics_gap(teacher) as gaps:
        pass
    assert torch.equal(teacher(images), answer), "watching changes no answer"
    assert not gaps, "the hooks are gone"
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_hooks_go_also_when_the_pass_fails() -> None:
    teacher = frozen_teacher()
    with pytest.raises(RuntimeError), statistics_gap(teacher):
        teacher(torch.zeros(2, 5, 14, 14))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


@torch.no_grad()
def test_the_gap_of_a_layer_equals_the_naive_loop() -> None:
    torch.manual_seed(6)
    norm, maps = nn.BatchNorm2d(2).eval(), torch.randn(3, 2, 2, 2)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    means, variances = [0.0, 0.0], [0.0, 0.0]
    for c in range(2):
        values = [float(v) for v in maps[:, c].flatten()]
        mean = sum(values) / 12
        means[c] = (mean - float(norm.running_mean[c])) ** 2
        variances[c] = (sum((v - mean) ** 2 for v in values) / 12 - float(norm.running_var[c])) ** 2
    with statistics_gap(nn.Sequential(norm)) as gaps:
        norm(maps)
    wanted = math.sqrt(sum(means)) + math.sqrt(sum(variances))
    assert float(gaps[0]) == pytest.approx(wanted, rel=1e-5)
