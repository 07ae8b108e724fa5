"""KDCI's compensation of a biased answer (CVPR 2024, arXiv 2403.19539): what a confounder dictionary adds to it.

The dictionary holds N prototypes z_i, means of the teacher's features over clusters of substitute images, and their
priors P(z_i). A query h of the student attends to it:

    lambda = softmax_i( w . tanh(W_q h + W_k z_i) )        additive, or softmax_i( q . k_i / sqrt(HIDDEN) ), dot
    F = sum_i lambda_i P(z_i) N z_i                        N, because lambda and P are both about 1 / N
    s~ = s + W_z F                                         W_z = 0 at the start: the host method, bit for bit

No layer has a bias. Our reading: prototypes are divided by the root mean square of all their entries, so that the sizes
of steps do not depend on the scale of the teacher's features; W_z can take that back.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Attention = Literal["additive", "dot", "random"]
Query = Literal["logits", "features"]

HIDDEN = 256  # dimensions in which query and prototypes meet


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
        if attention == "additive":
            self.to_score = nn.Linear(HIDDEN, 1, bias=False)
        self.fuse = nn.Linear(width, outputs, bias=False)
        nn.init.zeros_(self.fuse.weight)

    @torch.no_grad()
    def set_dictionary(self, prototypes: Tensor, prior: Tensor) -> None:
        """Take prototypes [N, d] and their prior [N], which sums to 1."""
        scale = prototypes.double().square().mean().sqrt().clamp_min(1e-12)
        self.prototypes.copy_(prototypes.double() / scale)
        self.prior.copy_(prior)

    def weights(self, query: Tensor) -> Tensor:
        """Queries [B, inputs] -> lambda [B, N], rows sum to 1."""
        if self.attention == "random":
            return torch.softmax(self.scores, dim=0).expand(len(query), -1)
        queries, keys = self.to_query(query), self.to_key(self.prototypes)
        if self.attention == "dot":
            return torch.softmax(queries @ keys.T / math.sqrt(HIDDEN), dim=1)
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
