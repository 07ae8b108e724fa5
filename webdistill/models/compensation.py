"""KDCI's compensation of a biased answer (CVPR 2024, arXiv 2403.19539): what a confounder dictionary adds to it.

The dictionary holds N prototypes z_i, means of the teacher's features over clusters of substitute images, and their
priors P(z_i). A query h of the student attends to it:

    lambda = softmax_i( w . tanh(W_q h + W_k z_i) )        additive, or softmax_i( q . k_i / sqrt(HIDDEN) ), dot
    F = sum_i lambda_i P(z_i) N z_i                        N, because lambda and P are both about 1 / N
    s~ = s + W_z F                                         W_z = 0 at the start: the host method, bit for bit

No layer has a bias. Our reading: prototypes are scaled to a root mean square length of LENGTH, and W_k starts uniform
between -1 / LENGTH and 1 / LENGTH, so that keys and steps are as large for any teacher; W_z and W_k can take that back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from webdistill.models.names import Attention, Query

HIDDEN = 256  # dimensions in which query and prototypes meet
LENGTH = 8.0  # of prototypes: entries of size 1 in 64 dimensions
PIECE = 32  # queries whose [PIECE, N, HIDDEN] numbers are worked on together: they stay in the processor's cache
LARGEST = (
    20.0  # entries of keys and queries up to which their exponentials can be multiplied in float32
)


class Compensation(nn.Module):
    """W_z F [B, outputs] for queries [B, inputs]; prototypes [N, d] and prior [N] are constants that no step changes.

    `attention`: additive, dot, or random: the same lambda for every image, a softmax of N(0, 1) numbers drawn once.
    `use_prior`: False takes 1 / N for P(z_i).
    """

    prototypes: Tensor  # [N, d], scaled
    prior: Tensor  # [N]
    scores: Tensor  # [N], of attention random

    def __init__(
        self,
        inputs: int,
        outputs: int,
        count: int,
        width: int,
        *,
        query: Query,
        attention: Attention,
        use_prior: bool,
    ) -> None:
        super().__init__()
        self.query, self.attention, self.use_prior = query, attention, use_prior
        self.register_buffer("prototypes", torch.zeros(count, width))
        self.register_buffer("prior", torch.full((count,), 1 / count))
        if attention == "random":
            self.register_buffer("scores", torch.randn(count))
        else:
            self.to_query = nn.Linear(inputs, HIDDEN, bias=False)
            self.to_key = nn.Linear(width, HIDDEN, bias=False)
            nn.init.uniform_(self.to_key.weight, -1 / LENGTH, 1 / LENGTH)
        if attention == "additive":
            self.to_score = nn.Linear(HIDDEN, 1, bias=False)
        self.fuse = nn.Linear(width, outputs, bias=False)
        nn.init.zeros_(self.fuse.weight)

    @torch.no_grad()
    def set_dictionary(self, prototypes: Tensor, prior: Tensor) -> None:
        """Take prototypes [N, d] and their prior [N], which sums to 1."""
        length = prototypes.double().square().sum(1).mean().sqrt().clamp_min(1e-12)
        self.prototypes.copy_(prototypes.double() * LENGTH / length)
        self.prior.copy_(prior)

    def weights(self, query: Tensor) -> Tensor:
        """Queries [B, inputs] -> lambda [B, N], rows sum to 1."""
        if self.attention == "random":
            return torch.softmax(self.scores, dim=0).expand(len(query), -1)
        queries, keys = self.to_query(query), self.to_key(self.prototypes)
        if self.attention == "dot":
            return torch.softmax(queries @ keys.T / math.sqrt(HIDDEN), dim=1)
        if (queries.requires_grad or keys.requires_grad) and not queries.is_cuda:
            return torch.softmax(additive_scores(queries, keys, self.to_score.weight[0]), dim=1)
        scores = self.to_score(torch.tanh(queries[:, None] + keys)).squeeze(2)
        return torch.softmax(scores, dim=1)

    def forward(self, logits: Tensor, penultimate: Tensor) -> Tensor:
        """The student's raw logits [B, K] and penultimate features [B, D] -> what is to be added [B, outputs]."""
        query = logits if self.query == "logits" else penultimate
        with torch.autocast(
            query.device.type, enabled=False
        ):  # few numbers, whose differences count
            weights = self.weights(query.float())
            if self.use_prior:
                weights = weights * self.prior * len(self.prior)
            added: Tensor = self.fuse(weights @ self.prototypes)
            return added


def additive_scores(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """w . tanh(q_b + k_i) for queries [B, H], keys [N, H], w [H] -> [B, N]; for training on a CPU.

    With tanh(q + k) = 1 - 2 / (1 + e^2q e^2k) there are B H + N H exponentials instead of B N H, and nothing of that
    size is kept for the backward pass. Larger entries than LARGEST go the plain way.
    """
    largest = torch.maximum(queries.detach().abs().amax(), keys.detach().abs().amax())
    if float(largest) > LARGEST:
        return torch.tanh(queries[:, None] + keys) @ weight
    scores: Tensor = _AdditiveScores.apply(queries, keys, weight)  # type: ignore[no-untyped-call]
    return scores


class _AdditiveScores(torch.autograd.Function):
    """See `additive_scores`; r = 1 / (1 + e^2q e^2k), so tanh = 1 - 2 r and its derivative 4 r (1 - r)."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        query, key = (2 * queries).exp(), (2 * keys).exp()
        ctx.save_for_backward(query, key, weight)
        parts = [_inverse(piece, key) @ weight for piece in query.split(PIECE)]
        return weight.sum() - 2 * torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, weight = ctx.saved_tensors
        to_query, to_key = torch.empty_like(query), torch.zeros_like(key)
        to_weight = torch.zeros_like(weight)
        done = 0
        for piece, gradient in zip(query.split(PIECE), gradients[0].split(PIECE), strict=True):
            r = _inverse(piece, key)
            to_weight += gradient.reshape(-1) @ r.flatten(0, 1)
            slope = torch.addcmul(r, r, r, value=-1)
            to_query[done : done + len(piece)] = torch.bmm(gradient[:, None], slope)[:, 0]
            to_key += torch.einsum("bn,bnh->nh", gradient, slope)
            done += len(piece)
        return 4 * to_query * weight, 4 * to_key * weight, gradients[0].sum() - 2 * to_weight


def _inverse(query: Tensor, key: Tensor) -> Tensor:
    return (query[:, None] * key).add_(1).reciprocal_()
