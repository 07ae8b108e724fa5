"""Which stage may start when: a state of the plan without processes or clocks."""

from __future__ import annotations

from collections.abc import Sequence

from webdistill.commands.repro.plan import Step


class Schedule:
    """Steps that wait, run, are done, failed, or can no longer be done."""

    def __init__(self, steps: Sequence[Step], keep_going: bool = False) -> None:
        self._waiting = {step.name: step for step in steps}
        self._planned = frozenset(self._waiting)  # what a step needs beyond these is up to date
        self._keep_going = keep_going
        self.running: list[str] = []
        self.done: list[str] = []
        self.failed: list[str] = []

    @property
    def left(self) -> int:
        """Steps that are neither done nor failed."""
        return len(self._waiting) + len(self.running)

    def next(self) -> str | None:
        """Start a step whose needs are done: its name, in the order of the plan; None when there is none now."""
        if self.failed and not self._keep_going:
            return None
        for name, step in self._waiting.items():
            if (step.after & self._planned).issubset(self.done):
                del self._waiting[name]
                self.running.append(name)
                return name
        return None

    def end(self, name: str, *, success: bool) -> None:
        """A running step has ended."""
        self.running.remove(name)
        (self.done if success else self.failed).append(name)
