"""Training by several processes: what the ranks of torch.distributed tell each other. Alone, they have nothing to say.

Rank r of n has the rows r, r + n, r + 2n, ... of every batch, so that the first images of a batch are spread evenly. A
loss is the mean over ranks of what each computes from its rows. For a mean over images that is the loss of one process;
what compares images of a batch asks for `whole` or `averaged`, whose gradients are exact: the mean over ranks of every
parameter's gradient is then the gradient of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def count() -> int:
    """n, processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0, which is the one that writes."""
    return dist.get_rank() if count() > 1 else 0


def part(rows: Tensor) -> Tensor:
    """What belongs to all rows of a batch [B, ...] -> to those of this rank, [B / n, ...]."""
    return rows if count() == 1 else rows[rank() :: count()].contiguous()


def whole(rows: Tensor) -> Tensor:
    """Of this rank's rows [B / n, ...] -> of all rows [B, ...], in the order of the batch; differentiable."""
    return rows if count() == 1 else _Whole.apply(rows)  # type: ignore[no-untyped-call]  # apply is untyped


def averaged(value: Tensor) -> Tensor:
    """The mean over ranks, of any shape; differentiable."""
    return value if count() == 1 else _Averaged.apply(value)  # type: ignore[no-untyped-call]  # apply is untyped


def var_mean(values: Tensor, dim: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Variance without correction, and mean, over `dim` and over ranks with as many values each; differentiable."""
    variance, own = torch.var_mean(values, dim=list(dim), correction=0)
    if count() == 1:
        return variance, own
    mean = averaged(own)
    return averaged(variance + (own - mean).square()), mean


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(count())]
        dist.all_gather(parts, rows)
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return part(_summed(gradients[0]))


class _Averaged(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return _summed(value) / count()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0]) / count()


def _summed(value: Tensor) -> Tensor:
    value = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(value)
    return value


# -- without gradients ---------------------------------------------------------------------------------------------
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over ranks."""
    if count() > 1:
        found = [each.grad for each in parameters if each.grad is not None]
        _exchange(found, lambda flat: dist.all_reduce(flat.div_(count())))


def average_figures(figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named numbers [] -> their means over ranks, without gradients."""
    if count() == 1:
        return figures
    stacked = _summed(torch.stack([each.detach() for each in figures.values()])) / count()
    return dict(zip(figures, stacked.unbind(), strict=True))


def agree(module: nn.Module) -> None:
    """Every rank takes over the first one's parameters and buffers: GPUs may round differently, and would drift."""
    if count() > 1:
        tensors = [*module.parameters(), *module.buffers()]
        _exchange(
            [each.detach() for each in tensors],
            lambda flat: dist.broadcast(flat.view(torch.uint8), 0),
        )


def told(number: int) -> int:
    """The first rank's number, on all ranks."""
    if count() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor(number, device=device)
    dist.broadcast(told, 0)
    return int(told)


def _exchange(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """`exchange` all of them as one flat tensor per dtype, in place."""
    kinds = sorted(tensors, key=lambda each: str(each.dtype))
    for _, group in groupby(kinds, key=lambda each: each.dtype):
        some = list(group)
        flat = torch.cat([each.reshape(-1) for each in some])
        exchange(flat)
        for each, values in zip(some, flat.split([each.numel() for each in some]), strict=True):
            each.copy_(values.view(each.shape))


def in_turn(
    parts: Sequence[Tensor],
    compute: Callable[[Sequence[Tensor]], Iterator[Mapping[str, Tensor]]],
) -> Iterator[Mapping[str, Tensor]]:
    """Have the ranks take turns: each computes every n-th part, and all get the results of all parts, in order.

    Arguments:
        parts: rows [b] int64 each, the same on all ranks.
        compute: parts -> for each the named results, [b, ...]; called once, with this rank's parts.
    """
    if count() == 1:
        yield from compute(parts)
        return
    groups = [parts[first : first + count()] for first in range(0, len(parts), count())]
    own = compute([group[min(rank(), len(group) - 1)] for group in groups])  # a spare rank: again
    for group in groups:
        mine = next(own)
        for source, rows in enumerate(group):
            yield {name: _sent(each, len(rows), source) for name, each in mine.items()}


def _sent(like: Tensor, rows: int, source: int) -> Tensor:
    """What rank `source` has where this one has `like` [b, ...]: [rows, ...], in the same memory format."""
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    outward = like.permute(0, 2, 3, 1) if last else like.contiguous()
    found = outward if rank() == source else outward.new_empty(rows, *outward.shape[1:])
    dist.broadcast(found.view(torch.uint8), source)  # bytes: not every backend knows bfloat16
    return found.permute(0, 3, 1, 2) if last else found
