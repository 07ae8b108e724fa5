"""Networks of torchvision and timm give the library's own logits, and load the library's own state dicts."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from webdistill.core.errors import UserError
from webdistill.models.checkpoint import load_weights
from webdistill.models.classifier import Classifier
from webdistill.models.cost import parameters
from webdistill.models.families.torchvision_nets import split_torchvision
from webdistill.models.families.wrapped import Wrapped, wrap
from webdistill.models.zoo import build

import timm  # isort: skip  (after webdistill, which lets torchvision import)
from torchvision import models  # isort: skip
from torchvision.models.convnext import CNBlockConfig  # isort: skip

CLASSES = 7


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was about to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def trained(net: nn.Module, size: int) -> nn.Module:
    """BatchNorms, biases and linear layers that are not those of a fresh network, in eval mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.ndim in (1, 2) and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / tensor.shape[-1] ** (tensor.ndim - 1))
        net.train()(torch.randn(4, 3, size, size))
    return net.eval()


@torch.no_grad()
def assert_splits_exactly(net: Classifier, theirs: nn.Module, images: Tensor) -> None:
    logits = theirs(images)
    maps = net.features(images)
    assert maps.ndim == 4
    assert maps.shape[1] == net.channels
    assert logits.std(dim=0).max() > 0
    assert torch.equal(net.classify(maps), logits)
    assert torch.equal(net.fc(net.pool(maps)), logits)


# -- the library's own state dict, through a file ----------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("resnet18", 64, 2),
        ("mobilenet_v2", 64, 2),
        ("mobilenet_v3_small", 64, 2),
        ("shufflenet_v2_x0_5", 64, 2),
        ("mnasnet0_5", 64, 2),
        ("efficientnet_b0", 64, 2),
        ("regnet_y_400mf", 64, 2),
        ("googlenet", 64, 1),  # these two are wrapped as they are
        ("squeezenet1_0", 64, 1),
    ],
)
def test_torchvision(name: str, size: int, side: int, tmp_path: Path) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    theirs = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    trained(theirs, size)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")  # GoogLeNet's holds aux1 and aux2
    net = build(f"torchvision:{name}", CLASSES, size)
    load_weights(net, tmp_path / "w.safetensors", name)
    images = torch.randn(2, 3, size, size)
    assert_splits_exactly(net.eval(), theirs, images)
    assert net.features(images).shape[-1] == side


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_resnet", 3),
        ("test_efficientnet", 3),
        ("test_convnext", 3),  # normalisation between pooling and classifier
        ("mobilenetv3_small_050", 3),  # a convolution there
        ("test_mambaout", 1),  # NHWC maps
        ("dla46_c", 1),  # a convolution as last layer
    ],
)
def test_timm(name: str, side: int, tmp_path: Path) -> None:
    theirs = trained(timm.create_model(name, num_classes=CLASSES), 96)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    net = build(f"timm:{name}", CLASSES, 96)
    load_weights(net, tmp_path / "w.safetensors", name)
    images = torch.randn(2, 3, 96, 96)
    assert_splits_exactly(net.eval(), theirs, images)
    assert net.features(images).shape[-1] == side


def test_without_a_size_a_timm_network_is_tried_with_its_own() -> None:
    net = build("timm:test_vit", CLASSES).eval()
    assert net.features(torch.randn(2, 3, 160, 160)).shape == (2, 64, 1, 1)


# -- the other families, in small -------------------------------------------------------------------------
TINY: dict[str, Callable[[], nn.Module]] = {
    "densenet": partial(models.DenseNet, 4, (2, 2), 8, num_classes=CLASSES),
    "convnext": partial(
        models.ConvNeXt, [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=CLASSES
    ),
    "vit": partial(models.VisionTransformer, 32, 8, 1, 2, 16, 32, num_classes=CLASSES),
    "swin": partial(models.SwinTransformer, [4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=CLASSES),
    "alexnet": partial(models.AlexNet, num_classes=CLASSES),  # as VGG: linear layers read 6x6 maps
}


@pytest.mark.parametrize(
    ("family", "split", "size"),
    [
        ("densenet", True, 32),
        ("convnext", True, 32),
        ("vit", False, 32),
        ("swin", False, 32),
        ("alexnet", True, 64),
    ],
)
def test_further_families_of_torchvision(family: str, split: bool, size: int) -> None:
    net = trained(TINY[family](), size)
    theirs = copy.deepcopy(net)
    names = net.state_dict().keys()
    parts, tensors = split_torchvision(net), net.state_dict(keep_vars=True)
    assert (parts is not None) == split
    wrapped = wrap(net, CLASSES, (size,), family) if parts is None else Wrapped(parts, tensors)
    assert_splits_exactly(wrapped.eval(), theirs, torch.randn(2, 3, size, size))
    assert wrapped.library_names.keys() == names
    assert sorted(wrapped.library_names.values()) == sorted(wrapped.state_dict())


def test_a_network_for_one_size_says_so() -> None:
    with pytest.raises(UserError, match="vit takes no image of 64 px: Wrong image height"):
        wrap(TINY["vit"](), CLASSES, (64,), "vit")
    assert wrap(TINY["vit"](), CLASSES, (64, 32), "vit").channels == 16


def test_images_that_are_too_small_for_a_network_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="torchvision:alexnet takes no image of 32 px: Given input"):
        build("torchvision:alexnet", CLASSES, 32)


# -- properties ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = build(name, CLASSES, 64)
    assert net.training
    F.cross_entropy(net(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("name", "thousand", "last"),
    [("resnet18", 11_689_512, 513), ("mobilenet_v3_small", 2_542_856, 1025)],
)
def test_sizes_are_the_published_ones(name: str, thousand: int, last: int) -> None:
    net = build(f"torchvision:{name}", CLASSES, 64)
    assert parameters(net) == thousand - (1000 - CLASSES) * last


def test_a_network_without_a_last_linear_layer_stores_no_stand_in() -> None:
    net = build("torchvision:squeezenet1_0", CLASSES, 64)
    assert parameters(net) == 1_248_424 - (1000 - CLASSES) * 513
    assert not [name for name in net.state_dict() if name.startswith("fc")]


def test_names_that_the_library_does_not_know() -> None:
    with pytest.raises(UserError, match="torchvision has no .* 'resnet5'; did you mean resnet50"):
        build("torchvision:resnet5", CLASSES)
    with pytest.raises(UserError, match="did you mean"):
        build("torchvision:fasterrcnn_resnet50_fpn", CLASSES)  # detection, not classification
    with pytest.raises(UserError, match="timm has no network 'resnet5x'; did you mean"):
        build("timm:resnet5x", CLASSES)
    with pytest.raises(UserError, match="cannot be built"):
        build("timm:resnet18.no_such_tag", CLASSES)


def test_messages_name_tensors_as_the_file_does(tmp_path: Path) -> None:
    tensors = models.mobilenet_v3_small(num_classes=CLASSES).state_dict()
    path = tmp_path / "w.safetensors"
    net = build("torchvision:mobilenet_v3_small", CLASSES + 1, 64)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"'classifier\.3\.weight' has shape \[7, 1024\]"):
        load_weights(net, path, "m")
    del tensors["classifier.0.bias"]
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"lacks tensor 'classifier\.0\.bias'"):
        load_weights(net, path, "m")


class Tail(nn.Module):
    """A linear classifier with something after it."""

    def __init__(self, after: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)
        self.first = nn.Linear(3, 3)  # registered last, called first
        self.after = after

    def forward(self, x: Tensor) -> object:
        return self.after(self.fc(self.first(x.mean(dim=(2, 3)))))


def test_the_last_layer_called_is_the_classifier() -> None:
    wrapped = wrap(Tail(nn.Identity()), CLASSES, (8,), "net")
    assert wrapped.library_names["fc.weight"] == "fc.weight"
    assert wrapped.library_names["first.weight"] == "body.first.weight"


@pytest.mark.parametrize("after", [lambda z: 3 * z, lambda z: z.view(-1, CLASSES)])
def test_what_follows_the_last_layer_stays(after: Callable[[Tensor], object]) -> None:
    """Then the logits count as features themselves."""
    net = Tail(after).eval()
    wrapped = wrap(copy.deepcopy(net), CLASSES, (8,), "net").eval()
    assert_splits_exactly(wrapped, net, torch.randn(2, 3, 8, 8))
    assert wrapped.channels == CLASSES


def test_what_would_change_the_features_keeps_its_layer() -> None:
    """A clamp that leaves the logits alone, but not the larger features, which would take its place."""
    net = Tail(lambda z: z.clamp(-5, 5)).eval()
    with torch.no_grad():
        net.first.weight.mul_(1e4)
        net.fc.weight.div_(1e4)
    wrapped = wrap(copy.deepcopy(net), CLASSES, (8,), "net").eval()
    assert wrapped.channels == CLASSES
    assert_splits_exactly(wrapped, net, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda z: z.softmax(dim=1), "gives probabilities"),
        (lambda z: (z, z), r"must give logits \[B, 7\]; for one image it gave tuple"),
        (lambda z: z[:, :3], r"it gave \[1, 3\]"),
        (lambda z: z @ z, "takes no image of 8 px"),
    ],
)
def test_networks_that_give_no_logits_are_refused(
    after: Callable[[Tensor], object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        wrap(Tail(after), CLASSES, (8,), "net")
    assert "\n" not in str(caught.value)
