"""What a run remembers: figures of an epoch's steps, and its choices, with how often each image was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.distill.methods import Choice

Row = dict[str, float]


class Figures:
    """Means of named figures over the steps that have them; summed on their device, read once at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()  # a figure need not be there in every step

    def add(self, step: Mapping[str, Tensor]) -> None:
        """The figures of one step, [] each."""
        for name, value in step.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def means(self) -> Row:
        """In the order in which the figures first came; waits for the device."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


@dataclass
class History:
    """Filled once per choice; `rows`, `kept` and `empty` are all there is to save."""

    classes: tuple[str, ...]
    count: int  # N images of the pool
    rows: list[Row] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # per choice [N] bool, on the CPU
    empty: int = 0  # choices that kept nothing and were passed over

    def add(self, epoch: int, choice: Choice) -> None:
        """Note the choice made before `epoch` (from 0)."""
        keep = choice.keep.cpu()
        pseudo_class = choice.pseudo_class.cpu()
        counts = torch.bincount(pseudo_class[keep], minlength=len(self.classes))
        row = {
            "epoch": epoch + 1.0,
            "kept": float(keep.sum()),
            "kept_share": float(keep.float().mean()) if len(keep) else 0.0,
            "churn": float((keep ^ self.kept[-1]).float().mean()) if self.kept else 0.0,
            "mean_confidence": float(choice.confidence[choice.keep].mean()) if keep.any() else 0.0,
        }
        named = zip(self.classes, counts.tolist(), strict=True)
        self.rows.append(row | {f"class/{name}": float(n) for name, n in named})
        self.kept.append(keep)

    def places(self, choice: int = -1) -> Tensor:
        """Places [n] int64 of the images that a choice kept, by default the last; all while there is none."""
        if not self.kept:
            return torch.arange(self.count)
        return self.kept[choice].nonzero()[:, 0]

    def times_kept(self) -> Tensor:
        """[N] int64: in how many choices each image was kept."""
        if not self.kept:
            return torch.zeros(self.count, dtype=torch.int64)
        return torch.stack(self.kept).sum(0)

    def bits(self) -> list[bytes]:
        """Per image one bit per choice, the first choice in the lowest bit of the first byte."""
        if not self.kept or not self.count:
            return [b""] * self.count
        choices = torch.stack(self.kept, dim=1)  # [N, choices]
        missing = -choices.shape[1] % 8
        padded = torch.nn.functional.pad(choices.to(torch.uint8), (0, missing))
        powers = 2 ** torch.arange(8, dtype=torch.uint8)
        packed = (padded.view(self.count, -1, 8) * powers).sum(2).to(torch.uint8)
        return [bytes(row) for row in packed.numpy()]
