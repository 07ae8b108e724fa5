"""What check-teacher is made of: distances of statistics, which normalisation fits, findings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.photographs import CLASSES, KNOWN, photographs, trained_with
from webdistill.commands.check_teacher import normalisation
from webdistill.commands.check_teacher.findings import Finding, table
from webdistill.models.checkpoint import Card
from webdistill.models.zoo import build

COUNT = 60  # images


def test_the_distance_of_statistics() -> None:
    layer = nn.BatchNorm2d(4, eps=0.0)
    layer.running_mean = torch.tensor([0.0, 1.0, -2.0, 5.0])
    layer.running_var = torch.tensor([1.0, 4.0, 0.25, 9.0])
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    assert normalisation.gap(mean, variance, layer) == 0
    shifted = mean + torch.tensor([1.0, 2.0, 0.5, 3.0])  # one deviation each
    assert normalisation.gap(shifted, variance, layer) == pytest.approx(1)
    assert normalisation.gap(mean, variance * torch.e, layer) == pytest.approx(1)
    assert normalisation.gap(mean, variance / torch.e, layer) == pytest.approx(1)
    half = torch.tensor([1.0, 1.0, torch.e**2, torch.e**2])
    assert normalisation.gap(shifted, variance * half, layer) == pytest.approx(1 + 2)


def test_the_first_norm_is_the_first_one_called() -> None:
    """In a wide ResNet that is not the first one in the file."""
    net = build("wrn-10-1", 2).eval()
    images = photographs(1)
    assert normalisation.first_norm(net, images) is net.get_submodule("layer1.0.bn1")
    assert normalisation.first_norm(build("resnet8", 2), images) is not None


def test_the_distance_is_that_of_all_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = trained_with("CIFAR-10", photographs(50), border=False).eval(), photographs(23)
    layer = normalisation.first_norm(net, images)
    assert layer is not None
    whole = normalisation.distance(net, layer, KNOWN["ImageNet"], images)
    monkeypatch.setattr(normalisation, "BATCH_PIXELS", 5 * 32 * 32)
    assert normalisation.distance(net, layer, KNOWN["ImageNet"], images) == pytest.approx(whole)


def test_long_findings_are_wrapped_and_counted() -> None:
    text = table("T", [Finding("ok", "a", "x " * 90, ("detail",)), Finding("fail", "bc", "y")])
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "          detail" in text
    assert text.endswith("1 ok, 0 warn, 1 fail")


def judged(card: str, trained: str, border: bool) -> Finding:
    net = trained_with(trained, photographs(80, seed=1), border).eval()
    known = KNOWN[card]
    facts = Card(
        architecture="resnet8", classes=tuple(CLASSES), image_size=32,
        mean=known.mean, std=known.std, sha256="0" * 64,
    )  # fmt: skip
    return normalisation.check(net, facts, photographs(COUNT))


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize(
    ("card", "trained"),
    [
        ("none, 0 to 1", "CIFAR-10"),
        ("ImageNet", "none, 0 to 1"),
        ("ImageNet", "-1 to 1"),
        ("CIFAR-10", "none, 0 to 255"),
        ("none, 0 to 255", "-1 to 1"),
    ],
)
def test_wrong_normalisations(card: str, trained: str, border: bool) -> None:
    found = judged(card, trained, border)
    assert found.level == "warn"
    assert found.text.startswith(f"'{trained}' fits")
    assert found.details[0].strip().split("  ")[1] == trained  # the best comes first


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("name", list(KNOWN))
def test_the_right_normalisation_is_no_reason_to_warn(name: str, border: bool) -> None:
    assert judged(name, name, border).level == "ok"
