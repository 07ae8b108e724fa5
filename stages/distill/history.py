"""What a method's choices looked like over training: one row per choice, and per image how often it was kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.distill.methods import Choice

Row = dict[str, float]


@dataclass
class History:
    """Filled once per choice; `kept` and `rows` are all there is to save."""

    classes: tuple[str, ...]
    count: int  # N images of the pool
    rows: list[Row] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # per choice [N] bool, on the CPU

    def add(self, epoch: int, choice: Choice) -> None:
        """Note the choice made before `epoch` (from 0)."""
        keep = choice.keep.cpu()
        pseudo_class = choice.pseudo_class.cpu()
        counts = torch.bincount(pseudo_class[keep], minlength=len(self.classes))
        row = {
            "epoch": epoch + 1.0,
            "kept": float(keep.sum()),
            "kept_share": float(keep.float().mean()),
            "churn": float((keep ^ self.kept[-1]).float().mean()) if self.kept else 0.0,
            "mean_confidence": float(choice.confidence[choice.keep].mean()) if keep.any() else 0.0,
        }
        named = zip(self.classes, counts.tolist(), strict=True)
        self.rows.append(row | {f"class/{name}": float(n) for name, n in named})
        self.kept.append(keep)

    def times_kept(self) -> Tensor:
        """[N] int64: in how many choices each image was kept."""
        if not self.kept:
            return torch.zeros(self.count, dtype=torch.int64)
        return torch.stack(self.kept).sum(0)

    def bits(self) -> list[bytes]:
        """Per image one bit per choice, the first choice in the lowest bit of the first byte."""
        if not self.kept:
            return [b""] * self.count
        choices = torch.stack(self.kept, dim=1)  # [N, choices]
        missing = -choices.shape[1] % 8
        padded = torch.nn.functional.pad(choices.to(torch.uint8), (0, missing))
        powers = 2 ** torch.arange(8, dtype=torch.uint8)
        packed = (padded.view(self.count, -1, 8) * powers).sum(2).to(torch.uint8)
        return [bytes(row) for row in packed.numpy()]
