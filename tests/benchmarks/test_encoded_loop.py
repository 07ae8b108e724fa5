"""The benchmark of the encoded loop runs from end to end, and so does that of near-duplicates."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import encoded_loop, near_duplicates
from benchmarks.encoded_loop import ARMS
from tests.images.planted import natural


def jpeg_files(count: int, side: int) -> list[bytes]:
    out = []
    for image in natural(count, seed=0, side=side):
        file = io.BytesIO()
        image.save(file, "JPEG")
        out.append(file.getvalue())
    return out


def test_every_arm_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arm that counts its workers runs in a process of its own, the others here: torch is imported already."""
    apart = encoded_loop.measure

    def measure(arm: str, given: list[str]) -> dict[str, float]:
        if arm == "imagefolder":
            return apart(arm, given)
        return encoded_loop.child(arm, encoded_loop.arguments(given))

    monkeypatch.setattr(encoded_loop, "measure", measure)
    pq.write_table(pa.table({"image": jpeg_files(8, 48)}), tmp_path / "source.parquet")
    given = {
        "source": tmp_path / "source.parquet", "images": 16, "side": 32, "batch": 4, "steps": 1, "rounds": 1,
        "threads": 1, "teacher": "resnet8", "student": "resnet8", "out": tmp_path / "out.json",
    }  # fmt: skip
    assert encoded_loop.main([f"--{k}={v}" for k, v in given.items()]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(found) == set(ARMS)
    for arm in ARMS:
        assert f"| {arm} | " in shown
        assert found[arm]["images_per_second"] > 0
        assert found[arm]["peak_mib"] > 50
    assert found["decoding"]["cpu_ms"] < found["encoded"]["cpu_ms"]


def test_near_duplicates_are_tabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = jpeg_files(6, 120)
    table = pa.table({"image": [*files, files[0]], "class": list("abcdefa")})
    pq.write_table(table, tmp_path / "source.parquet")
    source, out = tmp_path / "source.parquet", tmp_path / "out.json"
    given = [f"--source={source}", "--copies=3", f"--out={out}"]
    monkeypatch.setattr("sys.argv", ["near_duplicates", *given])
    assert near_duplicates.main() == 0
    shown = capsys.readouterr().out
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows["similarity 0.99 to 1.0"][:2] == [1, 1.0]
    assert rows["copies, recompressed"][:2] == [3, 1.0]
    assert "| copies, several at once | " in shown
