"""Stops a training whose loss or student is not finite, without making a GPU wait for the question."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.distill import ranks
from webdistill.core.errors import UserError

NAMED = 8  # images of a bad batch that the message names


class Watch:
    """Looks at the loss of a step when the next one has been queued: one step late, so a GPU always has one to do."""

    def __init__(self, ids: Sequence[str], rates: str) -> None:
        """`ids` [N]: the images' names, none where none is used; `rates`: the settings that a user may lower."""
        self.ids, self.rates = ids, rates
        self._unseen: tuple[Callable[[], bool], Tensor] | None = None

    def note(self, loss: Tensor, rows: Tensor) -> None:
        """A step over the images `rows` [B] has been queued, with this `loss` []; looks at the step before it.

        Raises UserError that names images when that one's loss was not finite.
        """
        self._look((arriving(torch.isfinite(loss)), rows))

    def finish(self) -> None:
        """Look at the last step, too, before its epoch counts as finished. Raises UserError like `note`."""
        self._look(None)

    def whole(self, student: nn.Module, row: Mapping[str, float]) -> None:
        """Look at what the last step of an epoch has left, which no loss has seen, and at what was measured of it.

        Raises UserError when the student's weights or a figure of the epoch's row are not finite.
        """
        weights = [each for each in student.state_dict().values() if each.is_floating_point()]
        finite = torch.stack([torch.isfinite(each).all() for each in weights]).all()
        if not (bool(finite) and all(map(math.isfinite, row.values()))):
            raise UserError(f"the student is not finite after an epoch; lower {self.rates}")

    def _look(self, now: tuple[Callable[[], bool], Tensor] | None) -> None:
        before, self._unseen = self._unseen, now
        if before is None or before[0]():
            return
        message = f"the loss is not finite; lower {self.rates}"
        if self.ids:
            names = [self.ids[i] for i in ranks.whole(before[1])[:NAMED].tolist()]
            message += f". The batch begins with images {names}"
        raise UserError(message)


def arriving(flag: Tensor) -> Callable[[], bool]:
    """Send a flag [] from its device on its way; the result waits for it, but not for work that was queued later."""
    if flag.device.type != "cuda":
        return lambda: bool(flag)
    copy, done = flag.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record()

    def read() -> bool:
        done.synchronize()
        return bool(copy)

    return read
