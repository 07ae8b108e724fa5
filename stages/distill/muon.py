"""Muon: momentum whose matrix is made nearly orthogonal before the step (Jordan et al. 2024).

Every direction of a layer then moves about equally far, whatever the scale of its gradient, so that one rate serves
layers and networks that plain SGD wants different rates for. Kernels [O, I, h, w] count as matrices [O, I h w].
torch.optim.Muon takes matrices alone, so kernels need this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the quintic; singular values end between about .7 and 1.2
RMS = 0.2  # of a step, so that rates are those of Adam (Liu et al. 2025, arXiv 2502.16982)
SMALLEST = 9  # rows of so few weights, as of depthwise 3x3 kernels, have nothing to orthogonalise
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam, for such rows, biases and normalisation


@torch.no_grad()
def orthogonal(matrix: Tensor) -> Tensor:
    """[m, n] float32 -> U f(S) V^T of its singular value decomposition, f(s) near 1: Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    flipped = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if flipped else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if flipped else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, Adam for the rest, at one rate; weight decay is decoupled (p *= 1 - lr wd)."""

    def __init__(self, groups: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """One step of every parameter that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim > 1 and parameter[0].numel() > SMALLEST:
                    self._matrix(parameter, group)
                else:
                    self._vector(parameter, group)

    def _matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
        ahead = parameter.grad + group["momentum"] * momentum  # Nesterov's
        matrix = ahead.reshape(len(ahead), -1).float()
        step = orthogonal(matrix) * (RMS * max(matrix.shape) ** 0.5)
        parameter.add_(step.reshape(ahead.shape), alpha=-group["lr"])

    def _vector(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"], state["square"] = (
                torch.zeros_like(parameter),
                torch.zeros_like(parameter),
            )
            state["steps"] = torch.zeros(())
        state["steps"] += 1
        gradient, taken = parameter.grad, float(state["steps"])
        assert gradient is not None
        mean = state["mean"].lerp_(gradient, 1 - BETAS[0]) / (1 - BETAS[0] ** taken)
        square = state["square"].lerp_(gradient.square(), 1 - BETAS[1]) / (1 - BETAS[1] ** taken)
        parameter.addcdiv_(mean, square.sqrt() + EPSILON, value=-group["lr"])
