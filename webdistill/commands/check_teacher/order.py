"""Are the outputs in the order of the class list? The teacher's answers against what names the pictures.

Half of the pictures propose a permutation of the outputs, the other half judge it: where classes are many and pictures
few, some permutation always fits by chance, but it fits the first half alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from webdistill.commands.check_teacher.findings import Finding

FEWEST = 64  # pictures: fewer say nothing
SIGMAS = 3.0  # another order must be better by that many standard errors,
CLEARLY = 0.05  # and by that share of the pictures
ORDER = 0.5  # share that the other order must name right: features of an untrained last layer fit some order a little
SHOWN = 8  # outputs named in a message
ABOUT = "class order"
Ints = NDArray[np.int64]


def check(given: Ints, named: Ints, classes: Sequence[str], source: str) -> Finding:
    """`given`: the teacher's class of each picture; `named`: that of its folder, keyword or label; both [N]."""
    count, chance = len(named), 1 / len(classes)
    if count < FEWEST:
        return too_few(count, source)
    right = float((given == named).mean())
    text = (
        f"{right:.1%} of {count} pictures answered as named by {source}, {chance:.1%} by guessing"
    )
    # Pictures may come class by class or in turns, so halves are drawn.
    drawn = np.random.default_rng(0).permutation(count)
    first, second = drawn[: count // 2], drawn[count // 2 :]
    proposal = permutation(given[first], named[first], len(classes))
    own = given[second] == named[second]
    other = proposal[given[second]] == named[second]
    gain = other.astype(np.float64) - own
    better, error = float(gain.mean()), float(gain.std() / math.sqrt(len(gain)))
    if better > max(CLEARLY, SIGMAS * error) and other.mean() < ORDER:
        return Finding(
            "warn",
            ABOUT,
            f"{text}; the best other order fits {other.mean():.1%}, too few for a trained teacher: is its last layer "
            "trained, and are normalisation and keywords right?",
        )
    if better > max(CLEARLY, SIGMAS * error):
        found = permutation(given, named, len(classes))
        return _wrong(found, classes, f"{text}; another order fits {other.mean():.1%}")
    if right <= chance + SIGMAS * math.sqrt(chance * (1 - chance) / count):
        return Finding(
            "warn",
            ABOUT,
            f"{text}, and no other order fits: are normalisation and keywords right?",
        )
    return Finding("ok", ABOUT, text)


def too_few(count: int, source: str) -> Finding:
    """What is said of fewer than FEWEST pictures, which nobody need show the teacher."""
    text = f"not checked: {count} pictures are named by {source}, {FEWEST} are needed"
    return Finding("warn", ABOUT, text)


def permutation(given: Ints, named: Ints, classes: int) -> Ints:
    """Output -> class, the most frequent pairs first; what no picture decides stays, or takes what is left."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (given, named), 1)
    found = np.full(classes, -1, np.int64)
    free = set(range(classes))
    outputs, names = np.nonzero(counts)
    # Of equal counts the order as it stands first.
    ranked = np.lexsort((names, outputs, outputs != names, -counts[outputs, names]))
    for at in ranked:
        output, name = int(outputs[at]), int(names[at])
        if found[output] < 0 and name in free:
            found[output] = name
            free.remove(name)
    for output in range(classes):
        if found[output] < 0 and output in free:
            found[output] = output
            free.remove(output)
    left = iter(sorted(free))
    return np.array([name if name >= 0 else next(left) for name in found], np.int64)


def _wrong(found: Ints, classes: Sequence[str], text: str) -> Finding:
    moved = [k for k in range(len(classes)) if found[k] != k]
    shown = [f"output {k} is '{classes[found[k]]}', not '{classes[k]}'" for k in moved[:SHOWN]]
    if len(moved) > SHOWN:
        shown.append(f"{len(moved) - SHOWN} more")
    return Finding(
        "fail",
        ABOUT,
        f"{text}: {', '.join(shown)}; put that order into the card and into task.classes",
        (f'"classes": {json.dumps([classes[k] for k in found], ensure_ascii=False)}',),
    )
