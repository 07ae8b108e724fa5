"""Networks of AuG-KD: shapes, forward passes written out, and what mask and mapping do to a latent vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.distill.methods.augkd_networks import (
    Anchor,
    Encoder,
    Generator,
    anchored,
    doublings,
    width,
)
from webdistill.core.errors import UserError

SIZES = (16, 28, 32, 64, 224)
LATENT, CLASSES = 5, 3


@pytest.mark.parametrize(
    ("size", "times"),
    [(7, 0), (12, 0), (14, 1), (16, 1), (28, 2), (32, 2), (64, 3), (96, 3), (224, 5)],
)
def test_maps_are_halved_while_seven_pixels_are_left(size: int, times: int) -> None:
    assert doublings(size) == times


@pytest.mark.parametrize("size", [15, 33, 50])
def test_a_size_whose_innermost_maps_would_be_large_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"task\.image_size of 7 to 13 times a power of 2"):
        doublings(size)


def test_channels_are_as_published_and_never_fewer() -> None:
    assert [width(level) for level in range(6)] == [256, 128, 64, 64, 64, 64]


# -- generator -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_images_have_the_size_asked_and_standardised_channels(size: int) -> None:
    torch.manual_seed(0)
    images = Generator(LATENT, size)(torch.randn(4, LATENT))
    assert images.shape == (4, 3, size, size)
    assert images.dtype == torch.float32
    channels = images.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.var(1, unbiased=False), torch.ones(3), atol=0.05, rtol=0)
    assert float((images[0] - images[1]).abs().max()) > 0.1, "other noise, other image"


def batch_norm(maps: Tensor, norm: nn.Module) -> Tensor:
    """Training's: by the batch's own mean and biased variance of every channel."""
    weight, bias = norm.get_parameter("weight"), norm.get_parameter("bias")
    return standard(maps) * weight[:, None, None] + bias[:, None, None]


def standard(maps: Tensor) -> Tensor:
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    return (maps - mean) / ((maps - mean).square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()


def leaky(maps: Tensor) -> Tensor:
    return torch.where(maps > 0, maps, 0.2 * maps)


@torch.no_grad()
def test_the_generator_is_what_its_docstring_says() -> None:
    torch.manual_seed(1)
    net, z = Generator(LATENT, 14), torch.randn(4, LATENT)
    first, widen, second, _, last, _ = net.layers
    for norm in (first, second):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    maps = (z @ net.project.weight.T + net.project.bias).reshape(4, 256, 7, 7)
    maps = batch_norm(maps, first).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    maps = leaky(batch_norm(F.conv2d(maps, widen.weight, padding=1), second))
    maps = F.conv2d(maps, last.weight, last.bias, padding=1)
    wanted = standard(1 / (1 + torch.exp(-maps)))
    torch.testing.assert_close(net(z), wanted, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_in_eval_mode_an_image_depends_on_its_own_noise_alone() -> None:
    torch.manual_seed(2)
    net, z = Generator(LATENT, 16), torch.randn(6, LATENT)
    trained = net(z)
    before = {name: each.clone() for name, each in net.named_buffers()}
    whole = net.eval()(z)
    torch.testing.assert_close(net(z[2:3]), whole[2:3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(trained, whole, atol=1e-2)
    assert all(torch.equal(each, before[name]) for name, each in net.named_buffers())


# -- encoder ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_an_image_and_its_label_become_mean_and_log_variance(size: int) -> None:
    torch.manual_seed(3)
    net = Encoder(LATENT, size, CLASSES).eval()
    images = torch.randn(2, 3, size, size)
    mean, log_variance = net(images, torch.tensor([0, 2]))
    assert mean.shape == log_variance.shape == (2, LATENT)
    other, _ = net(images, torch.tensor([1, 2]))
    assert float((other[0] - mean[0]).abs().max()) > 1e-5, "another label, another vector"
    torch.testing.assert_close(other[1], mean[1], atol=1e-6, rtol=1e-5)
    other, _ = net(images.flip(2), torch.tensor([0, 2]))
    assert float((other - mean).abs().max(1).values.min()) > 1e-5, "another image, another vector"


@torch.no_grad()
def test_the_encoder_reads_the_label_as_a_fourth_channel() -> None:
    torch.manual_seed(4)
    net, images, labels = Encoder(LATENT, 14, CLASSES), torch.randn(4, 3, 14, 14), [2, 0, 1, 2]
    fourth = torch.stack([net.label.weight[:, y] + net.label.bias for y in labels])
    maps = torch.cat([images, fourth.reshape(4, 1, 14, 14)], dim=1)
    norm = net.layers[1]
    maps = leaky(batch_norm(F.conv2d(maps, net.layers[0].weight, stride=2, padding=1), norm))
    flat = maps.reshape(4, 256 * 49)
    mean, log_variance = net(images, torch.tensor(labels))
    for found, head in ((mean, net.mean), (log_variance, net.log_variance)):
        torch.testing.assert_close(found, flat @ head.weight.T + head.bias, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_log_variance_stays_between_minus_five_and_three() -> None:
    torch.manual_seed(5)
    net = Encoder(LATENT, 16, CLASSES)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % CLASSES
    mean, within = net(images, labels)
    for head in (net.mean, net.log_variance):
        head.weight.mul_(1000)
        head.bias.mul_(1000)
    far, clamped = net(images, labels)
    assert (float(clamped.min()), float(clamped.max())) == (-5.0, 3.0)
    torch.testing.assert_close(clamped, (1000 * within).clamp(-5, 3), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(far, 1000 * mean, atol=1e-2, rtol=1e-3)
    assert float(far.abs().max()) > 5


# -- anchor ----------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_a_mask_of_zero_leaves_z_and_a_mask_of_one_is_the_mapping() -> None:
    torch.manual_seed(6)
    psi, z = Anchor(LATENT, CLASSES, 0.75).mapping, torch.randn(4, LATENT)
    assert torch.equal(anchored(z, torch.zeros_like(z), psi), z)
    assert torch.equal(anchored(z, torch.ones_like(z), psi), psi(z))
    assert float((psi(z) - z).abs().min()) > 0


@torch.no_grad()
def test_a_mask_between_equals_the_naive_loop() -> None:
    torch.manual_seed(7)
    psi, z, mask = nn.Linear(4, 4).double(), torch.randn(3, 4).double(), torch.rand(3, 4).double()
    weight, bias = psi.weight.tolist(), psi.bias.tolist()
    found = anchored(z, mask, psi)
    for b in range(3):
        m, row = mask[b].tolist(), z[b].tolist()
        for d in range(4):
            moved = sum(weight[d][k] * row[k] * m[k] for k in range(4)) + bias[d]
            assert float(found[b, d]) == pytest.approx(m[d] * moved + (1 - m[d]) * row[d])


def test_an_anchor_is_that_of_its_class_mask() -> None:
    torch.manual_seed(8)
    anchor, z, labels = (
        Anchor(LATENT, CLASSES, 0.75),
        torch.randn(4, LATENT),
        torch.tensor([2, 0, 2, 1]),
    )
    mask = anchor.mask(labels)
    assert mask.mean().item() == pytest.approx(0.75, abs=0.03)  # as covered to begin with
    wanted = 1 / (1 + torch.exp(-anchor.scores.weight[labels]) / 3)
    torch.testing.assert_close(mask, wanted)
    assert torch.equal(mask[0], mask[2])
    assert not torch.equal(mask[0], mask[1])
    first, _, second = anchor.mapping
    hidden = leaky((mask * z) @ first.weight.T + first.bias)
    moved = hidden @ second.weight.T + second.bias
    torch.testing.assert_close(anchor(z, labels), mask * moved + (1 - mask) * z)


def test_a_mask_reaches_one_and_zero() -> None:
    anchor, z = Anchor(LATENT, CLASSES, 0.75), torch.randn(2, LATENT)
    labels = torch.tensor([0, 1])
    nn.init.constant_(anchor.scores.weight, 200.0)
    assert torch.equal(anchor.mask(labels), torch.ones(2, LATENT))
    assert torch.equal(anchor(z, labels), anchor.mapping(z))
    nn.init.constant_(anchor.scores.weight, -200.0)
    assert torch.equal(anchor.mask(labels), torch.zeros(2, LATENT))
    assert torch.equal(anchor(z, labels), z)


def test_scores_of_the_labels_seen_and_the_mapping_learn() -> None:
    torch.manual_seed(9)
    anchor = Anchor(LATENT, CLASSES, 0.75)
    anchor(torch.randn(4, LATENT), torch.tensor([0, 2, 2, 0])).square().sum().backward()
    gradient = anchor.scores.weight.grad
    assert gradient is not None
    assert [bool(row.any()) for row in gradient] == [True, False, True]
    for parameter in anchor.mapping.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


@pytest.mark.parametrize(("covered", "mean"), [(0.0, 0.01), (1.0, 0.99)])
def test_a_mask_of_nothing_or_everything_begins_finite(covered: float, mean: float) -> None:
    torch.manual_seed(0)
    mask = Anchor(LATENT, CLASSES, covered).mask(torch.arange(CLASSES))
    assert mask.mean().item() == pytest.approx(mean, abs=0.005)
