"""KDCI's compensation of a biased answer (CVPR 2024, arXiv 2403.19539): what a confounder dictionary adds to it.

The dictionary holds N prototypes z_i, means of the teacher's features over clusters of substitute images, and their
priors P(z_i). A query h of the student attends to it:

    lambda = softmax_i( w . tanh(W_q h + W_k z_i) )        additive, or softmax_i( q . k_i / sqrt(HIDDEN) ), dot
    F = sum_i lambda_i P(z_i) N z_i                        N, because lambda and P are both about 1 / N
    s~ = s + W_z unit (F - E[F]) / rms(F - E[F])           W_z = 0 at the start: the host method, bit for bit
    s~ = W_h s + W_z unit (F - E[F]) / rms(F - E[F])       fuse linear, as in CCIM; W_h = 1 at the start

No layer has a bias. Our reading, of all that follows: the dictionary is centred, z_i - sum_j P(z_j) z_j. Prototypes are
means of features behind a ReLU and so nearly parallel: without it F is nearly the same vector for every image, and what
W_z learns is one constant per class. That alone does not help, measured: attention soon gives one prototype all the
weight for every image, and F is a constant again. So the mean of F over images is subtracted, too. And F is given a
root mean square length of `unit`: 1, or one standard deviation of the maps where maps are compensated. A step of W_z
then moves an answer as far as the same step of a bias, in the answers' own unit, for any dictionary and at any time.
Mean and length are the batch's in training and running ones otherwise, as in batch normalisation.

Prototypes are scaled to a root mean square length of LENGTH, and W_k starts uniform between -1 / LENGTH and 1 / LENGTH,
so that keys are as large for any teacher. W_h is kept as its difference from 1, so that weight decay pulls it to the
host method and not to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from webdistill.models.names import Attention, Fuse, Query

HIDDEN = 256  # dimensions in which query and prototypes meet
LENGTH = 8.0  # of prototypes: entries of size 1 in 64 dimensions
LEAST = 1e-3 * LENGTH  # length of F - E[F] below which it is not lengthened any more
SLOWEST = 0.1  # share of a batch in the running mean and length
EQUAL = 1e-6  # length of what centring leaves, as a share, below which prototypes were all equal
PIECE = 32  # queries whose [PIECE, N, HIDDEN] numbers are worked on together: they stay in the processor's cache
LARGEST = (
    20.0  # entries of keys and queries up to which their exponentials can be multiplied in float32
)


class Compensation(nn.Module):
    """W_z F [B, outputs] for queries [B, inputs]; prototypes [N, d] and prior [N] are constants that no step changes.

    `attention`: additive, dot, or random: the same lambda for every image, a softmax of N(0, 1) numbers drawn once.
    `use_prior`: False takes 1 / N for P(z_i).
    """

    prototypes: Tensor  # [N, d], centred if asked for, scaled
    prior: Tensor  # [N]
    unit: Tensor  # [], length of what W_z reads
    centre: Tensor  # [d], running E[F]
    square: Tensor  # [], running mean of |F - E[F]|^2
    seen: Tensor  # [], batches of which they are
    mean: Tensor  # [outputs], of what is added, over the images that were last measured
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
        fuse: Fuse = "add",
        centred: bool = True,
    ) -> None:
        super().__init__()
        self.query, self.attention, self.use_prior = query, attention, use_prior
        self.centred = centred  # matters to training alone
        self.averaged: Callable[[Tensor], Tensor] = _same  # over all processes that train together
        self.register_buffer("prototypes", torch.zeros(count, width))
        self.register_buffer("prior", torch.full((count,), 1 / count))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("square", torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(outputs))
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
        self.host: nn.Linear | None = None  # W_h - 1
        if fuse == "linear":
            self.host = nn.Linear(outputs, outputs, bias=False)
            nn.init.zeros_(self.host.weight)

    @property
    def fusing(self) -> Fuse:
        """How it joins what the host method answers."""
        return "add" if self.host is None else "linear"

    @torch.no_grad()
    def set_dictionary(self, prototypes: Tensor, prior: Tensor) -> None:
        """Take prototypes [N, d] and their prior [N], which sums to 1. Equal prototypes are nothing once centred."""
        points = prototypes.double()
        before = points.square().sum(1).mean().sqrt()
        if self.centred:
            shares = prior.double() if self.use_prior else torch.ones_like(prior.double())
            points = points - shares / shares.sum() @ points
        length = points.square().sum(1).mean().sqrt()
        if length <= EQUAL * before:  # rounding alone, or nothing to begin with
            points, length = torch.zeros_like(points), torch.ones_like(length)
        self.prototypes.copy_(points * LENGTH / length)
        self.prior.copy_(prior)
        self.seen.zero_()  # what F was on average tells nothing of the new one

    def weights(self, query: Tensor) -> Tensor:
        """Queries [B, inputs] -> lambda [B, N], rows sum to 1."""
        if self.attention == "random":
            return torch.softmax(self.scores, dim=0).expand(
                query.shape[0], -1
            )  # traced, unlike len
        queries, keys = self.to_query(query), self.to_key(self.prototypes)
        if self.attention == "dot":
            return torch.softmax(queries @ keys.T / math.sqrt(HIDDEN), dim=1)
        if (queries.requires_grad or keys.requires_grad) and not queries.is_cuda:
            return torch.softmax(additive_scores(queries, keys, self.to_score.weight[0]), dim=1)
        scores = self.to_score(torch.tanh(queries[:, None] + keys)).squeeze(2)
        return torch.softmax(scores, dim=1)

    def mixed(self, query: Tensor) -> Tensor:
        """Queries [B, inputs] float32 -> F [B, d]."""
        weights = self.weights(query)
        if self.use_prior:
            weights = weights * self.prior * len(self.prior)
        return weights @ self.prototypes

    def normal(self, found: Tensor) -> Tensor:
        """F [B, d] -> unit (F - E[F]) / rms(F - E[F]); the same attention for every image has nothing but a mean."""
        if not self.training:
            return (found - self.centre) * (self.unit / (self.square + LEAST**2).sqrt())
        centre = torch.zeros_like(self.centre)
        if self.centred and self.attention != "random":
            centre = self.averaged(found.mean(0))
        found = found - centre
        square = self.averaged(found.square().sum(1).mean())
        with torch.no_grad():
            self.seen += 1
            share = (1 / self.seen).clamp_min(SLOWEST)
            self.centre.lerp_(centre, share)
            self.square.lerp_(square, share)
        return found * (self.unit / (square + LEAST**2).sqrt())

    def as_it_was(self) -> dict[str, Tensor]:
        """Buffers with which W_z reads F itself, as in students of earlier versions."""
        plain = {
            name: torch.zeros_like(self.get_buffer(name)) for name in ("centre", "seen", "mean")
        }
        return plain | {"square": torch.ones(()), "unit": torch.tensor(math.sqrt(1 + LEAST**2))}

    def asking(self, logits: Tensor, penultimate: Tensor) -> Tensor:
        """Raw logits [B, K] and penultimate features [B, D] -> the one of them that is the query, float32."""
        return (logits if self.query == "logits" else penultimate).float()

    def forward(self, logits: Tensor, penultimate: Tensor, host: Tensor) -> Tensor:
        """What is to be added [B, outputs] to the host method's answer `host` [B, outputs].

        Arguments:
            logits: the student's raw logits [B, K].
            penultimate: its penultimate features [B, D].
            host: what is compensated: the logits, or the maps' means where maps are.
        """
        with torch.autocast(
            logits.device.type, enabled=False
        ):  # few numbers, whose differences count
            found = self.normal(self.mixed(self.asking(logits, penultimate)))
            added: Tensor = self.fuse(found)
            return added if self.host is None else added + self.host(host.float())


def _same(value: Tensor) -> Tensor:
    return value


@torch.no_grad()
def constant(bias: Tensor, fuse: Fuse = "add") -> Compensation:
    """One that adds the same numbers [outputs] to every answer: a dictionary of one prototype."""
    made = Compensation(
        0, len(bias), 1, 1, query="logits", attention="random", use_prior=True, fuse=fuse
    )
    made.prototypes.fill_(LENGTH)
    made.square.fill_(LENGTH**2)
    made.fuse.weight.copy_(bias[:, None])
    return made.to(bias.device)


def additive_scores(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    """w . tanh(q_b + k_i) for queries [B, H], keys [N, H], w [H] -> [B, N]; for training on a CPU.

    With tanh(q + k) = 1 - 2 / (1 + e^2q e^2k) there are B H + N H exponentials instead of B N H, and nothing of that
    size is kept for the backward pass. Larger entries than LARGEST go the plain way.
    """
    largest = torch.maximum(queries.detach().abs().amax(), keys.detach().abs().amax())
    if float(largest) > LARGEST:
        return torch.tanh(queries[:, None] + keys) @ weight
    scores: Tensor = _AdditiveScores.apply(queries, keys, weight)  # type: ignore[no-untyped-call]  # nor have autograd functions types
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
