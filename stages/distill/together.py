"""What a network does with a whole batch, done over the batch of all ranks: batch normalisation, and dropout's masks.

A mode that torch asks at every function, so that no network is changed: those of libraries and of users normalise with
layers of their own, which torch.nn.SyncBatchNorm would replace, and it refuses the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from stages.distill import ranks


def together() -> AbstractContextManager[object]:
    """Inside, networks in train mode see this rank's rows of a batch as part of the whole batch."""
    return nullcontext() if ranks.count() == 1 else _Together()


class _Together(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        own = _OWN.get(function, function)
        return own(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm over x [b, C, ...] of all ranks, which have as many rows each."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    found = _Normalised.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]  # apply is untyped
    normalised: Tensor
    normalised, mean, variance = found
    if running_mean is not None and running_var is not None:
        values = ranks.count() * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (values / (values - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return normalised


class _Normalised(torch.autograd.Function):
    """y = w (x - m) / sqrt(v + eps) + b with mean m and variance v of all ranks; -> y, m [C], v [C].

    With h = (x - m) / sqrt(v + eps) and means over all ranks' values of a channel:
    dx = w / sqrt(v + eps) (dy - mean(dy) - h mean(dy h)). dw and db are those of this rank's rows.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _moments(x)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        y = torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, variance = ctx.saved_tensors
        # with constant statistics, by torch's own kernel: dx = w / sqrt(v + eps) dy, dw = sum(dy h), db = sum(dy)
        unit = torch.ones_like(mean) if weight is None else weight
        scale = (variance + ctx.eps).rsqrt()
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, unit, mean, variance, mean, scale, False, ctx.eps, [True] * 3
        )
        sums = torch.stack([db, dw])
        dist.all_reduce(sums)
        mean_dy, mean_dyh = sums * (mean.numel() / (ranks.count() * x.numel()))
        slope = unit * scale.square() * mean_dyh  # of x in w / sqrt(v + eps) h mean(dy h)
        level = unit * scale * mean_dy - slope * mean
        dx = torch.addcmul(dx - _channels(level, x), x, _channels(slope, x), value=-1).to(x.dtype)
        _, weighs, adds, _ = ctx.needs_input_grad
        return dx, dw if weighs else None, db if adds else None, None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """-> mean [C], variance [C] without correction, over the x [b, C, ...] of all ranks; float32 or better."""
    kind = torch.promote_types(x.dtype, torch.float32)
    own = torch.stack(
        torch.batch_norm_update_stats(x.to(kind), None, None, 0.0)
    )  # torch's own kernel
    parts = [torch.empty_like(own) for _ in range(ranks.count())]
    dist.all_gather(parts, own)
    means, variances = torch.stack(parts, dim=1)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], as x [B, C, ...] has its axes."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """torch.nn.functional.dropout with this rank's part of the whole batch's mask."""
    if not training or not p:
        return x
    if p == 1:
        return x * 0
    kept = _drawn(x, 1 - p) / (1 - p)
    return x.mul_(kept) if inplace else x * kept


def bernoulli_(x: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """Tensor.bernoulli_, with which library networks draw the images that skip a layer: likewise."""
    return x.copy_(_drawn(x, p, generator))


def _drawn(like: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Ones with probability p, else zeros, drawn for all ranks' rows [n b, ...] -> this rank's [b, ...]."""
    shape = (ranks.count() * len(like), *like.shape[1:])
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    rows = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)
    return ranks.part(rows.bernoulli_(p, generator=generator))


_OWN: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.dropout: dropout,
    Tensor.bernoulli_: bernoulli_,
}
