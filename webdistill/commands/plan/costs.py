"""What a run takes, as formulas over counts: steps, passes of networks, bytes in memory and on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stages.distill.answers import kept_in
from stages.distill.method_params import POOL_FREE
from stages.distill.params import SYNTHESIS_STEPS, Distill
from webdistill.commands.plan.trial import Seconds
from webdistill.images.encoded import WAITING

# Bytes of a stored picture for each pixel of the square of its shorter side; docs/scaling.md has what was measured.
PER_PIXEL = {"webp": 1.5, "jpeg": 0.75}
LOOKING = ("kd3", "dfnd", "odsd")  # methods that look at all pictures with the teacher


@dataclass(frozen=True)
class Counts:
    """Of one training; `answer` bytes of the teacher's answer to one view of one image, as it is kept."""

    settings: Distill
    selected: int
    side: int  # px
    answer: int
    encoded: bool

    @property
    def held(self) -> int:
        """Pictures that are only measured."""
        return round(self.settings.holdout * self.selected)

    @property
    def trained(self) -> int:
        return self.selected - self.held

    @property
    def steps_per_epoch(self) -> int:
        given, batch = self.settings.steps_per_epoch, self.settings.batch_size
        if self.settings.method in POOL_FREE:
            return given or SYNTHESIS_STEPS
        return given or self.trained // batch

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    @property
    def passes(self) -> float:
        """How often a picture is seen."""
        return self.steps * self.settings.batch_size / max(self.trained, 1)

    @property
    def answers(self) -> tuple[Literal["memory", "files", "nothing"], int]:
        """Where the teacher's answers are kept, and their bytes there."""
        if not 0 < self.settings.views < self.passes:
            return "nothing", 0
        size = self.answer * self.trained * self.settings.views
        where = kept_in(size, encoded=self.encoded, files=True)
        return where, 0 if where == "nothing" else size

    @property
    def pixels(self) -> int:
        """Bytes of pictures in memory: all, or those decoded ahead."""
        ahead = WAITING * self.settings.batch_size
        return 3 * self.side**2 * (min(ahead, self.selected) if self.encoded else self.selected)

    def seconds(self, tried: Seconds, decoding: float) -> float:
        """Of the training. `decoding`: seconds for a picture, with all threads."""
        batch, choosing = self.settings.batch_size, self.settings.method
        asked = float(self.steps)  # batches that the teacher answers
        if self.answers[0] != "nothing":
            asked = self.settings.views * self.trained / batch
        looked = self.trained / batch if choosing in LOOKING else 0.0
        chosen = 0.0
        if choosing == "kd3" and self.settings.kd3.selection:
            chosen = -(-self.settings.epochs // self.settings.kd3.reselect_every) * looked
        measured = self.settings.epochs * self.held / batch
        decoded = (self.steps + asked + looked + chosen + measured) * batch * self.encoded
        return (
            self.steps * (tried.step - tried.teacher)
            + (asked + looked) * tried.teacher
            + (chosen + measured) * tried.student
            + decoded * decoding
        )


def stored(pictures: int, side: int, store_as: str) -> int:
    """Bytes of a pool of so many pictures, an estimate."""
    return round(pictures * side**2 * PER_PIXEL[store_as])
