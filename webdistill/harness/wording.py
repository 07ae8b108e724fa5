"""Words for people that several programs need."""

from __future__ import annotations


def plural(number: int, what: str) -> str:
    """`1 row`, `2 rows`, `1,234 rows`: of the first noun of `what`, as in `2 rows of a list`."""
    noun, blank, rest = what.partition(" ")
    return f"{number:,} {noun}{'' if number == 1 else 's'}{blank}{rest}"
