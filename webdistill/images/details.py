"""A second look at two pictures that look alike when small: are they one picture, or two of one layout?

Product photographs, keyboards, bicycles, monitors on white, agree in the coarse frequencies that `hashes.similarity`
compares. Copies agree in the fine ones, too, once they lie on each other exactly. So the window in one picture that
fits the centre of the other best is searched on a coarse grid at low frequencies, then moved, scaled and stretched in
ever smaller steps, and what counts is the inner product at frequencies up to FINE. A copy keeps 0.94 and more of it
when it was recompressed, shrunk, mirrored, brightened, blurred or cropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webdistill.images.hashes import (
    CENTRE,
    MAX_SHIFT,
    NO_CONTRAST,
    SHIFTS,
    ZOOMS,
    Doubles,
    Rows,
    cosines,
    weights,
)

SIDE = 96  # px of the pictures that are looked at; smaller ones have no details to compare
SMALL = 32  # px at which the grid is searched
LOW, FINE = 12, 32  # frequencies a side
STEPS = (
    (LOW, 0.01, 2),
    (LOW, 0.005, 1),
    (FINE, 0.004, 2),
    (FINE, 0.002, 2),
)  # frequencies, share of the side, rounds


def details(one: NDArray[Any], other: NDArray[Any]) -> Doubles:
    """Luminance [P, SIDE, SIDE] twice -> similarity of each pair, -1 to 1, whichever of the two is the larger cut."""
    pair = one.astype(np.float64), other.astype(np.float64)
    return np.maximum(_aligned(*pair), _aligned(*pair[::-1]))


def _aligned(query: Doubles, reference: Doubles) -> Doubles:
    """Of the centre of each reference with the window of the query that fits best."""
    window, mirrored = _searched(_shrunk(query), _shrunk(reference))
    found = np.full(len(query), -1.0)
    for frequencies, step, rounds in STEPS:
        side = query if frequencies == FINE else _shrunk(query)
        other = reference if frequencies == FINE else _shrunk(reference)
        wanted = _centres(other, frequencies)
        wanted = np.where(mirrored[:, None, None], wanted * _signs(frequencies), wanted)
        found = _products(side, window, wanted)
        for _ in range(rounds):
            for moves in _moves(step):
                window, found = _best(side, window, wanted, found, moves)
    return found


def _shrunk(gray: Doubles) -> Doubles:
    """[P, SIDE, SIDE] -> [P, SMALL, SMALL], means of blocks."""
    factor = SIDE // SMALL
    return np.asarray(gray.reshape(len(gray), SMALL, factor, SMALL, factor).mean(axis=(2, 4)))


def _searched(query: Doubles, reference: Doubles) -> tuple[Doubles, Rows]:
    """-> best window [P, 4] (left, top, width, height as shares of the side), and whether it is mirrored [P]."""
    wanted = _centres(reference, LOW)
    best, window = np.full(len(query), -2.0), np.zeros((len(query), 4))
    mirrored = np.zeros(len(query), np.int64)
    for left, top, side in _grid():
        rows, columns = (cosines(SMALL, start, side, LOW) for start in (top, left))
        found = _unit(rows @ query @ columns.T * weights(LOW))
        even, odd = ((found * wanted)[:, :, start::2].sum(axis=(1, 2)) for start in (0, 1))
        better = even + np.abs(odd) > best
        best = np.where(better, even + np.abs(odd), best)
        window[better] = left, top, side, side
        mirrored[better] = odd[better] < 0
    return window, mirrored


def _grid() -> Iterator[tuple[float, float, float]]:
    """The windows of `hashes.similarity`: left, top, side."""
    for side in ZOOMS:
        free = (1 - side) / 2
        most = min(MAX_SHIFT, free)
        yield from ((free + x * most, free + y * most, side) for x in SHIFTS for y in SHIFTS)


def _moves(step: float) -> Iterator[Doubles]:
    """Groups of changes to a window: of its place, of its size, of its aspect; the first of each changes nothing."""
    shifts = [(0, 0), *((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)]
    yield step * np.array([(x, y, 0, 0) for x, y in shifts], np.float64)
    yield step * np.array([(0, 0, 0, 0), (-1, -1, 2, 2), (1, 1, -2, -2)], np.float64)
    stretched = [(-1, 0, 2, 0), (0, -1, 0, 2), (1, 0, -2, 0), (0, 1, 0, -2)]
    yield step * np.array([(0, 0, 0, 0), *stretched], np.float64)


def _best(
    gray: Doubles, window: Doubles, wanted: Doubles, found: Doubles, moves: Doubles
) -> tuple[Doubles, Doubles]:
    tried = [window + move for move in moves]
    values = np.stack([found, *(_products(gray, each, wanted) for each in tried[1:])])
    place, rows = values.argmax(axis=0), np.arange(len(window))
    return np.stack(tried)[place, rows], values[place, rows]


def _products(gray: Doubles, window: Doubles, wanted: Doubles) -> Doubles:
    """Inner products [P] of the windows' unit descriptors with those that are wanted [P, f, f]."""
    size, frequencies = gray.shape[1], wanted.shape[1]

    def lines(start: int) -> Doubles:
        return np.stack([cosines(size, row[start], row[start + 2], frequencies) for row in window])

    found = _unit(lines(1) @ gray @ lines(0).transpose(0, 2, 1) * weights(frequencies))
    return np.asarray((found * wanted).sum(axis=(1, 2)))


def _centres(gray: Doubles, frequencies: int) -> Doubles:
    line = cosines(gray.shape[1], (1 - CENTRE) / 2, CENTRE, frequencies)
    return _unit(line @ gray @ line.T * weights(frequencies))


def _unit(spectra: Doubles) -> Doubles:
    norm = np.sqrt((spectra**2).sum(axis=(1, 2), keepdims=True))
    return np.where(norm > NO_CONTRAST, spectra / np.maximum(norm, NO_CONTRAST), 0)


def _signs(frequencies: int) -> Doubles:
    return np.where(np.arange(frequencies) % 2, -1.0, 1.0)
