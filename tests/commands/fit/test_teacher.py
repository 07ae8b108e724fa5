"""BatchNorm's inputs are measured exactly, and the teacher is the same afterwards."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn

from webdistill.commands.fit.teacher import Moments, ask, watched
from webdistill.models.checkpoint import Card, Network
from webdistill.models.zoo import build

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def network(architecture: str, size: int = 16) -> Network:
    torch.manual_seed(0)
    net = build(architecture, 5, size)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) / 3
            module.running_var = torch.rand(module.num_features) + 0.5
    card = Card(
        architecture=architecture, classes=("a", "b", "c", "d", "e"), image_size=size, mean=MEAN, std=STD,
        sha256="0" * 64,
    )  # fmt: skip
    return Network(net.eval().requires_grad_(False), card)


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def through(parts: Iterable[slice], _total: int) -> Iterable[slice]:
    return parts


def test_moments_in_batches_equal_those_of_everything() -> None:
    x = torch.randn(50, 6, 4, 3, generator=torch.Generator().manual_seed(0)) * 3 + 100
    found = Moments()
    for part in x.split([7, 30, 13]):
        found.add(part)
    for channel in range(6):
        values = x[:, channel].double().numpy().ravel()
        mean = sum(values) / len(values)
        assert float(found.mean[channel]) == pytest.approx(mean, rel=1e-6)
        naive = sum((v - mean) ** 2 for v in values) / len(values)
        assert found.var[channel] == pytest.approx(naive, rel=1e-4)


def test_layers_against_a_second_forward_pass() -> None:
    teacher, pictures = network("resnet8"), images(600)  # more than one batch
    found = ask(teacher, pictures, through)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    kept: dict[str, torch.Tensor] = {}
    norms = {n: m for n, m in teacher.net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, module in norms.items():
        module.register_forward_hook(
            lambda _m, inputs, _o, name=name: kept.update({name: inputs[0]})
        )
    logits = teacher.net(x).numpy()
    assert found.logits == pytest.approx(logits, abs=1e-4)
    assert [layer.name for layer in found.layers] == list(norms)
    for layer in found.layers:
        module, seen = norms[layer.name], kept[layer.name].double().numpy()
        shifts, ratios, kls = [], [], []
        for c in range(seen.shape[1]):
            m, v = seen[:, c].mean(), seen[:, c].var() + module.eps
            om = float(module.running_mean[c])
            ov = float(module.running_var[c]) + module.eps
            shifts.append(abs(m - om) / ov**0.5)
            ratios.append(abs(np.log(v / ov)))
            there = (np.log(ov / v) + (v + (m - om) ** 2) / ov - 1) / 2
            back = (np.log(v / ov) + (ov + (m - om) ** 2) / v - 1) / 2
            kls.append((there + back) / 2)
        assert layer.shift == pytest.approx(np.mean(shifts), rel=1e-4)
        assert layer.log_ratio == pytest.approx(np.mean(ratios), rel=1e-3, abs=1e-5)
        assert layer.divergence == pytest.approx(np.mean(kls), rel=1e-3)


def test_the_teachers_own_images_are_at_distance_nothing() -> None:
    """Let BatchNorm remember exactly these images, layer by layer: every distance vanishes."""
    teacher, pictures = network("resnet8"), images(200)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    norms = [m for m in teacher.net.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in norms:  # in eval mode each layer's input depends on those before it alone
        kept: list[torch.Tensor] = []
        hook = module.register_forward_pre_hook(
            lambda _m, inputs, kept=kept: kept.append(inputs[0])
        )
        teacher.net(x)
        hook.remove()
        module.running_mean = kept[0].mean((0, 2, 3))
        module.running_var = kept[0].var((0, 2, 3), correction=0)
    for layer in ask(teacher, pictures, through).layers:
        assert max(layer.shift, layer.log_ratio, layer.divergence) < 1e-3, layer


def test_the_teacher_is_byte_equal_afterwards() -> None:
    teacher = network("resnet8")
    teacher.net.train()  # the worst case: BatchNorm would learn
    before = {k: v.clone() for k, v in teacher.net.state_dict().items()}
    ask(teacher, images(40), through)
    for name, tensor in teacher.net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in teacher.net.modules())


def test_hooks_go_also_when_the_forward_pass_fails() -> None:
    teacher = network("resnet8")
    with pytest.raises(RuntimeError), watched(teacher.net):
        raise RuntimeError
    assert not any(m._forward_pre_hooks for m in teacher.net.modules())


def test_a_teacher_without_batchnorm_has_no_layers() -> None:
    found = ask(network("torchvision:squeezenet1_1", 64), images(2, 64), through)
    assert found.layers == ()
    assert found.logits.shape == (2, 5)
