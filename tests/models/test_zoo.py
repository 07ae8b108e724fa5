"""Networks for 32 and 64 px: torchvision's own layers as reference, published sizes, one interface for all."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.evaluate import export
from stages.evaluate.forward import as_input
from stages.score import teacher as score
from webdistill.core.errors import UserError
from webdistill.models.checkpoint import Card, Network, load_network, save_network
from webdistill.models.classifier import Classifier, average_to
from webdistill.models.cost import parameters
from webdistill.models.families.torchvision_nets import AverageTo
from webdistill.models.names import COMPACT, VGG, parse
from webdistill.models.projected import Projected, map_side
from webdistill.models.zoo import build

from torchvision import models  # isort: skip  (after webdistill, which lets it import)
from torchvision.models.resnet import BasicBlock, Bottleneck  # isort: skip
from torchvision.models.vgg import make_layers  # isort: skip

FAMILIES = ("resnet8", "wrn-10-1", "resnet50", "vgg8", "mobilenetv3-small", "shufflenetv2-x0.5")
SAME = {"atol": 1e-5, "rtol": 1e-5}


def lively(net: nn.Module, size: int = 32) -> nn.Module:
    """Weights of order one and used BatchNorms, in eval mode: fresh ones make nearly constant logits."""
    torch.manual_seed(1)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Linear):
            module.weight.data.copy_(torch.randn_like(module.weight) / module.in_features**0.5)
    with torch.no_grad():
        net.train()(pictures(4, size))
    return net.eval()


def pictures(count: int, size: int) -> torch.Tensor:
    """Coloured patches [N, 3, S, S] about 0; pure noise would look the same to every network."""
    patches = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return F.interpolate(patches, size)


# -- names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "family", "numbers"),
    [
        ("resnet20", "resnet", (3, 3, 3)),
        ("resnet110", "resnet", (18, 18, 18)),
        ("resnet18", "resnet", (2, 2, 2, 2)),
        ("resnet50", "resnet", (3, 4, 6, 3)),
        ("wrn-40-2", "wide", (40, 2)),
        ("vgg13", "vgg", (2, 2, 2, 2, 2)),
        ("mobilenetv3-small", "compact", ()),
        ("torchvision:resnet50", "torchvision", ()),
        ("timm:resnet50.a1_in1k", "timm", ()),
    ],
)
def test_names_are_taken_apart(name: str, family: str, numbers: tuple[int, ...]) -> None:
    assert (parse(name).family, parse(name).numbers) == (family, numbers)


@pytest.mark.parametrize(
    "name",
    ["resnet9", "wrn-17-2", "vgg12", "mobilenetv4", "timm:hf-hub:me/net", "timm:a/b", "", ":x"],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown architecture") as caught:
        parse(name)
    assert "\n" not in str(caught.value)


# -- the same as torchvision's layers ------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "block"), [("resnet18", BasicBlock), ("resnet50", Bottleneck)])
def test_residual_networks_are_torchvisions_with_a_small_stem(name: str, block: type) -> None:
    net = lively(build(name, 5))
    reference = models.ResNet(block, list(parse(name).numbers), num_classes=5)
    reference.conv1, reference.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    reference.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(images), reference.eval()(images), **SAME)


def test_vgg_is_torchvisions_without_the_last_two_poolings() -> None:
    net = lively(build("vgg11", 5))
    plan = [64, "M", 128, "M", 256, 256, "M", 512, 512, 512, 512]
    reference = make_layers(plan, batch_norm=True)  # its convolutions have a bias
    for module in reference.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    missing = reference.load_state_dict(net.body.state_dict(), strict=False)
    assert not missing.unexpected_keys
    images = torch.randn(2, 3, 32, 32)
    maps = reference.eval()(images)
    torch.testing.assert_close(net.features(images), maps, **SAME)
    torch.testing.assert_close(net(images), net.fc(maps.mean(dim=(2, 3))), **SAME)


def halved(name: str, net: nn.Module) -> nn.Module:
    """The strides that compact.py documents, layer by layer."""
    if name.startswith("shufflenet"):
        stem, second = net.conv1[0], None
        net.maxpool = nn.Identity()
    elif name == "mobilenetv2":
        stem, second = net.features[0][0], net.features[2].conv[1][0]
        assert second.in_channels == 16 * 6
    else:
        block = net.features[1].block[0] if name.endswith("small") else net.features[2].block[1]
        stem, second = net.features[0][0], block[0]
    for layer in (stem, second):
        if layer is not None:
            assert layer.stride == (2, 2)
            layer.stride = (1, 1)
    return net


@pytest.mark.parametrize("name", [name for name in COMPACT if name != "shufflenetv2"])
def test_compact_networks_are_torchvisions_with_two_halvings_less(name: str) -> None:
    net = lively(build(name, 5))
    reference = halved(name, models.get_model(COMPACT[name], weights=None, num_classes=5))
    own = net.state_dict()
    reference.load_state_dict({theirs: own[ours] for theirs, ours in net.library_names.items()})
    images = pictures(2, 32)
    logits = reference.eval()(images)
    assert logits.std() > 0.05  # or else everything would be equal
    assert torch.equal(net(images), logits)


# -- sizes ---------------------------------------------------------------------------------------------------
# Published for 1,000 classes by torchvision; `last` counts the inputs of the last layer, bias included.
PUBLISHED = {
    "mobilenetv2": (3_504_872, 1281),
    "mobilenetv3-small": (2_542_856, 1025),
    "mobilenetv3-large": (5_483_032, 1281),
    "shufflenetv2": (2_278_604, 1025),
    "shufflenetv2-x0.5": (1_366_792, 1025),
}
VGG_BN = {"vgg11": 132_868_840, "vgg13": 133_053_736, "vgg16": 138_365_992, "vgg19": 143_678_248}


def size_of(name: str) -> int:
    """Parameters for ten classes; no weight is drawn."""
    with torch.device("meta"):
        return parameters(build(name, 10))


@pytest.mark.parametrize("name", PUBLISHED)
def test_compact_networks_have_the_published_size(name: str) -> None:
    total, last = PUBLISHED[name]
    assert size_of(name) == total - 990 * last


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_173_962), ("resnet50", 23_520_842), ("resnet20", 269_722)]
)
def test_residual_networks_have_the_published_size(name: str, count: int) -> None:
    assert size_of(name) == count


@pytest.mark.parametrize("name", ["vgg11", "vgg13"])
def test_vgg_has_the_published_size_but_for_head_and_biases(name: str) -> None:
    head = 25_088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    widths = (64, 128, 256, 512, 512)
    biases = sum(depth * width for depth, width in zip(VGG[name], widths, strict=True))
    assert size_of(name) == VGG_BN[name] - head - biases + 512 * 10 + 10


@pytest.mark.parametrize(
    ("name", "sides", "channels"),
    [
        ("resnet8", (8, 16), 64),
        ("resnet18", (4, 8), 512),
        ("resnet50", (4, 8), 2048),
        ("vgg8", (4, 8), 512),
        ("mobilenetv2", (4, 8), 1280),
        ("mobilenetv3-small", (4, 8), 576),
        ("mobilenetv3-large", (4, 8), 960),
        ("shufflenetv2", (4, 8), 1024),
    ],
)
def test_maps_of_32_and_64_px(name: str, sides: tuple[int, int], channels: int) -> None:
    net = build(name, 3)
    assert (map_side(net, 32), map_side(net, 64)) == sides
    assert net.channels == channels == net.eval().features(torch.zeros(1, 3, 32, 32)).shape[1]


# -- one interface -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_last_layer_of_the_penultimate_features(name: str) -> None:
    net = build(name, 3).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = net.features(images)
    penultimate = net.pool(maps)
    assert penultimate.shape == (2, net.fc.in_features)
    assert torch.equal(net.fc(penultimate), net(images))
    assert torch.equal(net.classify(maps), net(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 3)
    F.cross_entropy(net(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
    without = [
        n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not without


def test_scores_of_a_network_with_a_neck_are_its_logits() -> None:
    """The score stage keeps penultimate features and applies `fc` to them."""
    net = lively(build("mobilenetv3-small", 3))
    facts = {"architecture": "x", "classes": ("a", "b", "c"), "sha256": "0" * 64}
    card = Card(**facts, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    view = score.View(card.sha256, "x", 32, card.mean, card.std, "float32", 2)
    logits, features = zip(*score.forward(Network(net, card), view, images), strict=True)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(
        np.concatenate(logits), net(x).detach(), rtol=1e-3, atol=5e-3
    )  # float16
    assert np.concatenate(features).shape == (3, 1024)


@pytest.mark.parametrize(("length", "side"), [(8, 4), (7, 7), (7, 3), (1, 7), (2, 7), (5, 4)])
def test_averaging_windows_equals_adaptive_pooling(length: int, side: int) -> None:
    maps = torch.randn(2, 3, length, length, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(maps.double(), side)
    torch.testing.assert_close(average_to(maps, side).double(), expected, atol=1e-6, rtol=0)


# -- joined to a teacher -------------------------------------------------------------------------------------
PAIRS = [
    ("mobilenetv3-small", "resnet8", 32),  # student with a neck
    ("resnet8", "mobilenetv3-small", 32),  # teacher with a neck
    ("shufflenetv2-x0.5", "torchvision:resnet18", 32),  # maps of one position
    ("vgg8", "resnet18", 32),
    ("torchvision:shufflenet_v2_x0_5", "timm:test_efficientnet", 64),
    ("timm:test_resnet", "wrn-10-1", 64),
    ("resnet8", "timm:test_vit", 160),  # a teacher without maps
]


def joined(student: str, teacher: str, size: int) -> tuple[Projected, Classifier, int]:
    torch.manual_seed(0)
    one, other = build(student, 3, size), build(teacher, 3, size)
    side = min(map_side(one, size), map_side(other, size))
    return Projected(one, other, side), other, side


@pytest.mark.parametrize(("student", "teacher", "size"), PAIRS)
def test_a_student_ends_in_any_teachers_classifier(
    student: str, teacher: str, size: int, tmp_path: Path
) -> None:
    net, other, side = joined(student, teacher, size)
    images = torch.randn(2, 3, size, size)
    maps = net.features(images)
    assert maps.shape == (2, other.channels, side, side)
    assert net.channels == other.channels
    torch.testing.assert_close(net.classify(maps), other.eval().classify(maps), **SAME)
    maps.square().mean().backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in net.named_parameters() if n.startswith(("backbone", "proj"))}
    save_network(
        tmp_path / "net",
        net.eval(),
        {
            "architecture": student, "classes": ["a", "b", "c"], "image_size": size,
            "mean": [0.5] * 3, "std": [0.25] * 3,
            "projector": {"classifier_of": teacher, "side": side, "inner": net.inner},
        },
    )  # fmt: skip
    torch.testing.assert_close(load_network(tmp_path / "net").net(images), net(images), **SAME)


# -- ONNX ----------------------------------------------------------------------------------------------------
def exported_parity(net: nn.Module, size: int, path: Path) -> export.Parity:
    deployable = export.Deployable(net, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).eval()
    export.export(deployable, size, path)
    images = (pictures(10, size).sigmoid() * 255).byte().permute(0, 2, 3, 1).numpy()
    with torch.inference_mode():
        logits = deployable(as_input(images)).numpy()
    assert np.ptp(logits, axis=0).min() > 1e-3  # a constant would agree with anything
    return export.parity(export.session(path, 1), images, logits)


@pytest.mark.parametrize("name", ["mobilenetv3-small", "shufflenetv2", "vgg8"])
def test_students_are_exported_to_onnx(name: str, tmp_path: Path) -> None:
    export.check(
        exported_parity(lively(build(name, 3)), 32, tmp_path / "net.onnx"), hardly_trained=False
    )


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ("shufflenetv2-x0.5", "mobilenetv3-small", 32),
        ("mobilenetv3-small", "timm:test_convnext", 96),
    ],
)
def test_joined_students_are_exported_to_onnx(
    student: str, teacher: str, size: int, tmp_path: Path
) -> None:
    net = lively(joined(student, teacher, size)[0], size)
    export.check(exported_parity(net, size, tmp_path / "net.onnx"), hardly_trained=False)


@pytest.mark.parametrize("side", [2, 4, 7, 8])
def test_pooling_of_any_size_is_exported_to_onnx(side: int, tmp_path: Path) -> None:
    """VGG's makes 7x7 of whatever comes; ONNX's own adaptive pooling refuses what does not divide."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), AverageTo(side), nn.Linear(4 * side**2, 3))
    export.check(exported_parity(net, 10, tmp_path / "net.onnx"), hardly_trained=False)


def test_names_of_tensors_of_the_first_networks_have_not_changed() -> None:
    """Weights saved earlier must go on loading."""
    assert list(OrderedDict(build("wrn-10-1", 2).state_dict()))[:4] == [
        "conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.bn1.running_mean",
    ]  # fmt: skip
    names = set(build("resnet8", 2).state_dict()) | set(build("resnet18", 2).state_dict())
    assert {"conv1.weight", "bn1.weight", "layer3.0.conv2.weight", "fc.bias"} <= names
    assert "layer2.0.downsample.0.weight" in names
