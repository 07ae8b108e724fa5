"""Muon against singular value decompositions and a naive loop, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.distill.muon import BETAS, EPSILON, RMS, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonal(matrix)
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    inner = u.T @ found.double() @ v.T
    values = inner.diagonal()
    assert float((inner - torch.diag(values)).abs().max()) < 1e-4
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25
    assert torch.equal(orthogonal(matrix), orthogonal(matrix))
    assert float((orthogonal(1000 * matrix) - found).abs().max()) < 1e-4


def test_steps_equal_a_naive_loop() -> None:
    torch.manual_seed(1)
    kernel, bias, depthwise = torch.randn(6, 4, 3, 3), torch.randn(6), torch.randn(6, 1, 3, 3)
    weights = [nn.Parameter(each.clone()) for each in (kernel, bias, depthwise)]
    lr, decay = 0.01, 0.5
    optimiser = Muon(
        [{"params": [weights[0], weights[2]], "weight_decay": decay}, {"params": [weights[1]]}], lr
    )
    gradients = [[torch.randn_like(each) for each in weights] for _ in range(3)]
    naive = [each.double() for each in (kernel, bias, depthwise)]
    momentum = torch.zeros_like(naive[0])
    mean, square = ([torch.zeros_like(each) for each in naive] for _ in range(2))
    for taken, step in enumerate(gradients, 1):
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()
        momentum = 0.9 * momentum + step[0].double()
        ahead = (step[0].double() + 0.9 * momentum).reshape(6, -1)
        direction = orthogonal(ahead.float()).double() * RMS * 36**0.5
        naive[0] = naive[0] * (1 - lr * decay) - lr * direction.reshape(6, 4, 3, 3)
        for i, factor in ((1, 1.0), (2, 1 - lr * decay)):
            mean[i] = BETAS[0] * mean[i] + (1 - BETAS[0]) * step[i].double()
            square[i] = BETAS[1] * square[i] + (1 - BETAS[1]) * step[i].double() ** 2
            root = (square[i] / (1 - BETAS[1] ** taken)).sqrt() + EPSILON
            naive[i] = naive[i] * factor - lr * mean[i] / (1 - BETAS[0] ** taken) / root
    for weight, expected in zip(weights, naive, strict=True):
        torch.testing.assert_close(weight.detach().double(), expected, atol=2e-6, rtol=2e-5)


def test_it_goes_on_from_its_state() -> None:
    def trained(stop: int | None) -> torch.Tensor:
        torch.manual_seed(2)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
        optimiser = Muon(net.parameters(), 0.02, weight_decay=0.1)
        for step in range(4):
            if step == stop:
                state = optimiser.state_dict()
                optimiser = Muon(net.parameters(), 0.02, weight_decay=0.1)
                optimiser.load_state_dict(state)
            optimiser.zero_grad()
            net(torch.randn(4, 3, 3, 3)).square().mean().backward()
            optimiser.step()
        return torch.cat([each.flatten() for each in net.parameters()]).detach()

    assert torch.equal(trained(None), trained(2))
