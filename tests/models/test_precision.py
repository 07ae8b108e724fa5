"""Which precision `auto` takes."""

from __future__ import annotations

import pytest
import torch

from webdistill.models.names import Precision
from webdistill.models.precision import low_precision


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("avx512", [False, True])
def test_auto_on_a_processor_follows_amx_alone(
    amx: bool, avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert low_precision("auto", torch.device("cpu")) == amx
    assert low_precision("auto", torch.device("cuda"))


@pytest.mark.parametrize(("wanted", "low"), [("float32", False), ("bfloat16", True)])
def test_what_is_asked_for_is_done(wanted: Precision, low: bool) -> None:
    assert low_precision(wanted, torch.device("cpu")) == low
