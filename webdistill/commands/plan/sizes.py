"""What `init` writes by the size of a task: side of the pictures and their count.

The number of steps is that of the quickstart (records/2026-11-29-recipe). The rest follows from it: how many passes
over the pictures these steps are, how many epochs they make, and in which format a pool of that size stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stages.distill.answers import FILE_LIMIT

STEPS = 7_500  # of the student
PASSES = (
    1,
    150,
)  # over the pictures, at least and at most: a large pool is seen whole, a small one not for ever
EPOCH = 500  # steps of an epoch, at most: a killed run goes on from the last epoch that was saved
SMALL = 64  # px
BATCHES = (32, 64)  # up to SMALL, beyond
VIEWS = (8, 4, 2)  # the most of which the teacher's answers can be kept
STORED = 64  # px, at least
CLUSTERS, DIMS = 64, 32  # of the stage `prototypes`, at most,
SHARE = 4  # and pictures for each: the filter keeps half of them or fewer


def sized(
    side: int, pictures: int, answer: Callable[[], int], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`section.key` -> value for networks of `side` px and `pictures` selected ones.

    `answer`: bytes of the teacher's answer to one view, asked only where it matters. `given`: what the user has set,
    which the rest follows.
    """
    holdout = given.get("distill.holdout", 0.1)
    trained = max(pictures - round(holdout * pictures), 2)
    own = BATCHES[side > SMALL]
    batch = given.get("distill.batch_size", max(min(own, trained // 8), 2))
    epochs, steps = schedule(trained, batch)
    return {
        "fetch.store_size": max(STORED, side),
        "fetch.format": "webp" if side <= SMALL else "jpeg",
        "distill.images": "auto",
        "distill.batch_size": batch,
        "distill.epochs": epochs,
        "distill.steps_per_epoch": steps,
        "distill.lr": None,
        "distill.views": VIEWS[0] if side <= SMALL else views(trained, answer()),
    }


def clustered(pictures: int, width: int | None) -> dict[str, int]:
    """What the stage `prototypes` can make of few pictures, or of features of a small `width`."""
    few = max(pictures // SHARE, 1)
    return {
        "prototypes.count": min(CLUSTERS, max(few, 2)),
        "prototypes.dims": min(DIMS, few, width or DIMS),
    }


def schedule(trained: int, batch: int) -> tuple[int, int | None]:
    """-> epochs, and steps of each where these are no pass (None = a pass)."""
    a_pass = max(trained // batch, 1)
    total = min(max(STEPS, PASSES[0] * a_pass), PASSES[1] * a_pass)
    if a_pass <= EPOCH:
        return max(round(total / a_pass), 2), None
    return max(-(-total // EPOCH), 2), EPOCH


def views(trained: int, answer: int) -> int:
    """Distinct views of an image: as many as answers of `answer` bytes can be kept of, else 0 = always new."""
    return next((count for count in VIEWS if count * trained * answer <= FILE_LIMIT // 4), 0)
