"""Which images a method has kept, and when."""

from __future__ import annotations

import pytest
import torch

from stages.distill.history import History
from stages.distill.methods import Choice


def test_history_counts_shares_churn_and_bits() -> None:
    history = History(("a", "b"), 4)
    pseudo_class, confidence = torch.tensor([0, 0, 1, 1]), torch.tensor([0.9, 0.5, 0.7, 0.1])
    history.add(0, Choice(torch.tensor([True, True, False, False]), pseudo_class, confidence))
    history.add(3, Choice(torch.tensor([True, False, True, False]), pseudo_class, confidence))
    first, second = history.rows
    assert first == {
        "epoch": 1, "kept": 2, "kept_share": 0.5, "churn": 0.0,
        "mean_confidence": pytest.approx(0.7), "class/a": 2, "class/b": 0,
    }  # fmt: skip
    assert second["epoch"] == 4
    assert second["churn"] == 0.5
    assert (second["class/a"], second["class/b"]) == (1, 1)
    assert history.times_kept().tolist() == [2, 1, 1, 0]
    assert history.bits() == [b"\x03", b"\x01", b"\x02", b"\x00"]


def test_bits_of_more_than_eight_choices_fill_a_second_byte() -> None:
    history = History(("a",), 1)
    for epoch in range(10):
        keep = torch.tensor([epoch in (0, 9)])
        history.add(epoch, Choice(keep, torch.tensor([0]), torch.tensor([1.0])))
    assert history.bits() == [b"\x01\x02"]
