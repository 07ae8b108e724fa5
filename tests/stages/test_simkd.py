"""SimKD: what the weight of the answers does, and how wide the projector may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stages.distill.forward import Forward
from stages.distill.methods import Pool
from stages.distill.methods import build as build_method
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.simkd import SimKd, feature_loss
from tests.stages import test_distill as distilling
from tests.stages.feature_methods import NO_LABELS, batch, networks, pool_views, settings
from tests.stages.short_runs import state, train
from webdistill.core.errors import UserError
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.cost import parameters
from webdistill.models.families.wrapped import wrap
from webdistill.models.projected import Projected, inner_width, map_side, projector
from webdistill.models.zoo import build


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_the_weight_of_the_answers_grows_with_the_epochs(epoch: int) -> None:
    method, teacher, _ = networks(method="simkd", temperature=3.0, **{"simkd.kl": 0.2})
    assert isinstance(method, SimKd)
    method.variance.fill_(2.5)
    found = batch(teacher)
    method.begin_epoch(epoch, 4)
    losses, logits = method.eval().losses(found)
    assert found.teacher_maps is not None
    maps = method.net.features(found.images)
    told = kl_divergence(method.net(found.images), found.teacher_logits, 3.0, found.weight)
    expected = {
        "features": feature_loss(maps, found.teacher_maps, found.weight) / 2.5,
        "kd": 0.2 * epoch / 4 * told,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    torch.testing.assert_close(logits, method.net(found.images))


def test_without_it_the_published_loss_is_all() -> None:
    method, teacher, _ = networks(method="simkd", **{"simkd.kl": 0.0})
    method.begin_epoch(3, 4)
    assert list(method.losses(batch(teacher))[0]) == ["features"]


def test_kl_changes_the_student() -> None:
    found = []
    for weight in (0.0, 1.0):
        run = distilling.make(method="simkd", epochs=2, **{"simkd.kl": weight})
        train(run, 2)
        found.append(state(run.method))
    assert any(not torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("name", ["simkd", "kd3"])
def test_a_given_width_of_the_projector_is_the_students(name: str) -> None:
    for width in (1, 5):
        method, _, _ = networks(method=name, **{f"{name}.projector_width": width})
        net = method.student()
        assert isinstance(net, Projected)
        assert net.inner == width
        kernels = [tuple(m.weight.shape[:2]) for m in net.projector if hasattr(m, "in_channels")]
        assert [pair[1] for pair in kernels[1:]] == [width, width]


@pytest.mark.parametrize("name", ["simkd", "kd3"])
def test_without_a_projector_the_students_maps_are_compared_as_they_are(name: str) -> None:
    method, _, _ = networks(method=name, **{f"{name}.projector_width": 0})
    net = method.student()
    assert isinstance(net, Projected)
    assert parameters(net) == parameters(build("resnet8", 3))
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(net.features(images), net.backbone.features(images))


def test_without_a_projector_a_student_that_is_its_teacher_answers_as_it_does() -> None:
    teacher = build("resnet8", 3).eval()
    student = build("resnet8", 3)
    student.load_state_dict(teacher.state_dict())
    images = torch.rand(2, 3, 16, 16)
    net = Projected(student, teacher, side=map_side(teacher, 16), inner=0).eval()
    torch.testing.assert_close(net(images), teacher(images))


@pytest.mark.parametrize("name", ["simkd", "kd3"])
def test_maps_with_negative_values_are_within_reach(name: str, tmp_path: Path) -> None:
    """Behind a ReLU a student would answer logarithms with nothing but zeros. The card says which it is."""
    images = torch.rand(8, 3, 16, 16)
    whole = torch.nn.Sequential(build("resnet14", 3), torch.nn.LogSoftmax(1))
    for teacher, signed in ((wrap(whole, 3, (16,), "net"), True), (build("resnet14", 3), False)):
        method = build_method(settings(method=name), build("resnet8", 3), teacher.eval(), 16)
        net = method.student().eval()
        assert isinstance(net, Projected)
        assert net.signed == signed
        assert bool((net.features(images) < 0).any()) == signed
    card = {
        "architecture": "resnet8", "classes": ["a", "b", "c"], "image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    for signed in (True, False):
        net = Projected(build("resnet8", 3), build("wrn-10-1", 3), 4, 8, signed).eval()
        joined = {"classifier_of": "wrn-10-1", "side": 4, "inner": 8, "signed": signed}
        save_network(tmp_path / str(signed), net, card | {"projector": joined})
        torch.testing.assert_close(load_network(tmp_path / str(signed)).net(images), net(images))


def test_without_a_projector_the_channels_must_be_the_teachers() -> None:
    with pytest.raises(UserError, match=r"as many last channels as its teacher, not 64 for 128;"):
        Projected(build("resnet8", 3), build("wrn-10-2", 3), side=4, inner=0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "most", "expected"),
    [
        (512, 512, 11_000_000, 256),  # ResNet-34 -> ResNet-18: as published
        (64, 128, 175_000, 64),
        (1024, 1280, 342_000, 104),  # EfficientNet-Lite -> ShuffleNet x0.5, not 640
        (16, 8, 10, 8),
        (64, 5, 75_000, 32),  # five logits that count as maps
        (1024, 2048, 100, 8),
    ],
)
def test_the_projector_outweighs_the_student_by_no_more_than_its_least_width(
    inputs: int, outputs: int, most: int, expected: int
) -> None:
    inner = inner_width(inputs, outputs, most)
    assert inner == expected
    kernels = [m for m in projector(inputs, outputs, inner) if isinstance(m, torch.nn.Conv2d)]
    held = sum(each.weight.numel() for each in kernels)
    assert held <= most or inner == 8
    wider = inner + 8
    assert wider > max(outputs // 2, 32) or wider * (inputs + outputs) + 9 * wider**2 > most


def test_a_student_is_read_with_the_width_that_its_card_names(tmp_path: Path) -> None:
    """Cards of earlier versions name none: then it is half the teacher's."""
    images = torch.rand(2, 3, 16, 16)
    card = {
        "architecture": "resnet8",
        "classes": ["a", "b", "c"],
        "image_size": 16,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    for inner in (0, 8, 32):
        net = Projected(build("resnet8", 3), build("wrn-10-1", 3), side=4, inner=inner).eval()
        joined = {"classifier_of": "wrn-10-1", "side": 4, "inner": inner}
        folder = tmp_path / str(inner)
        save_network(folder, net, card | {"parameters": parameters(net), "projector": joined})
        torch.testing.assert_close(load_network(folder).net(images), net(images))
    path = folder / "config.json"
    written = json.loads(path.read_text())
    del written["projector"]["inner"]
    path.write_text(json.dumps(written))
    torch.testing.assert_close(load_network(folder).net(images), net(images))


@pytest.mark.parametrize("method", ["simkd", "kd3"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_feature_loss_is_the_share_of_variance_that_is_left(method: str, scale: float) -> None:
    """1 for a student that always answers the mean map of the pool, whatever the scale of the teacher's maps."""
    net, teacher, _ = networks(method=method)
    teacher.get_submodule("layer3").register_forward_hook(lambda _m, _i, out: out * scale)
    views = pool_views()
    everything = torch.arange(len(views.pool))
    maps = teacher.features(views.plain(everything)).double()
    flat = maps.transpose(0, 1).flatten(1)
    forward = Forward(teacher, views, low_precision=False)
    variance = float(flat.var(1, unbiased=False).mean())
    assert forward.map_variance(4) == pytest.approx(variance, rel=1e-5)
    logits = torch.rand(len(everything), 3)
    pool = Pool(lambda: (logits, logits), lambda: logits, forward.map_variance, NO_LABELS)
    net.select(pool, 0, 4)
    mean = flat.mean(1).float()[None, :, None, None].expand(len(everything), -1, 4, 4)
    loss = feature_loss(mean, maps.float(), torch.ones(len(everything))) / net.variance
    assert float(loss) == pytest.approx(1.0, rel=1e-4)
