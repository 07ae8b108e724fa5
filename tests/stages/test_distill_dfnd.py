"""DFND against closed forms and naive loops."""

from __future__ import annotations

import math

import pytest
import torch

from stages.distill.methods import Pool
from stages.distill.methods.dfnd import Dfnd, NoiseAdaptation, noisy_label_loss
from tests.stages.feature_methods import (
    NO_LABELS,
    batch,
    networks,
)


def test_noise_matrix_is_row_stochastic_with_the_accuracy_on_its_diagonal() -> None:
    noise = NoiseAdaptation(4, 0.9)
    torch.nn.init.normal_(noise.scores)
    matrix = noise.matrix()
    assert matrix.diagonal().tolist() == pytest.approx([0.9] * 4)
    assert matrix.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert bool((matrix > 0).all())


def test_noisy_label_loss_equals_the_naive_loop() -> None:
    torch.manual_seed(0)
    student, labels, weight = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0]), torch.rand(5)
    matrix = torch.softmax(torch.randn(3, 3), 1)
    total = 0.0
    for i in range(5):
        p = [math.exp(v) for v in student[i].tolist()]
        own = sum(p[k] / sum(p) * float(matrix[k, labels[i]]) for k in range(3))
        total -= float(weight[i]) * math.log(own)
    assert float(noisy_label_loss(student, labels, matrix, weight)) == pytest.approx(
        total / 5, abs=1e-6
    )


def test_dfnd_learns_its_matrix_with_adam_and_never_the_diagonal() -> None:
    method, teacher, _ = networks(method="dfnd")
    assert isinstance(method, Dfnd)
    losses, _ = method.losses(batch(teacher))
    torch.stack(list(losses.values())).sum().backward()
    gradient = method.noise.scores.grad
    assert gradient is not None
    assert gradient.diagonal().tolist() == [0.0] * 3
    assert bool(gradient.any())
    assert [id(p) for group in method.adam() for p in group["params"]] == [id(method.noise.scores)]


def test_dfnd_keeps_the_surest_share_once_also_where_probabilities_round_to_one() -> None:
    method, _, _ = networks(method="dfnd", **{"dfnd.keep": 0.5})
    logits = torch.tensor([[200.0, 0, 0], [300.0, 0, 0], [1.0, 0, 0], [0, 250.0, 0]])
    pool = Pool(
        lambda: (logits, logits),
        lambda: pytest.fail("asks the student"),
        lambda _: 1.0,
        NO_LABELS[:4],
    )
    choice = method.select(pool, 0, 10)
    assert choice is not None
    assert int(choice.keep.sum()) == 2
    assert not bool(choice.keep[2])
    assert method.select(pool, 1, 10) is None
