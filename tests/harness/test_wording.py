"""Counts in messages."""

from __future__ import annotations

import pytest

from stages.search.textlines import Lost
from webdistill.harness.wording import plural


@pytest.mark.parametrize(
    ("number", "what", "told"),
    [(0, "row", "0 rows"), (1, "row", "1 row"), (1234, "row of a list", "1,234 rows of a list")],
)
def test_one_is_no_plural(number: int, what: str, told: str) -> None:
    assert plural(number, what) == told


def test_one_row_that_cannot_be_read_is_one_row() -> None:
    assert list(Lost(1, [3], 1).told("a.csv")) == [
        "1 row of a.csv left out, which is not as its first: line 3",
        "1 line of a.csv is no UTF-8 and was read as Windows-1252",
    ]
