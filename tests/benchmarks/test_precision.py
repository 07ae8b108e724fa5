"""The benchmark of precisions: that both are measured, in both kinds of work."""

from __future__ import annotations

import pytest
import torch

from benchmarks.precision import main, work
from webdistill.models.zoo import build


@pytest.mark.parametrize("training", [False, True])
def test_the_work_is_done_in_the_precision_that_is_named(training: bool) -> None:
    net = build("resnet8", 10).train(training)
    seen: list[torch.dtype] = []
    net.fc.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    for bfloat16 in (False, True):
        work(net, torch.randn(2, 3, 32, 32), bfloat16=bfloat16)()
        assert (net.fc.weight.grad is not None) == training
    assert seen == [torch.float32, torch.bfloat16]


def test_it_runs_for_real(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--seconds", "0.01", "--repetitions", "1", "--threads", "1", "--networks", "1"]) == 0
    )
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "wrn" in line]
    assert [row[1] for row in rows] == ["forward pass", "training step"]
    for row in rows:
        float32, bfloat16, ratio = (float(each.strip(" |")) for each in row[2:])
        least, most = (bfloat16 - 0.5) / (float32 + 0.5), (bfloat16 + 0.5) / (float32 - 0.5)
        assert least - 0.005 <= ratio <= most + 0.005  # all three are rounded
