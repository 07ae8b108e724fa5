"""The benchmark of the encoded loop runs from end to end, and so do those of thresholds and near-duplicates."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.encoded_loop import ARMS
from tests.images.planted import natural

ROOT = Path(__file__).resolve().parents[2]


def jpeg_files(count: int, side: int) -> list[bytes]:
    out = []
    for image in natural(count, seed=0, side=side):
        file = io.BytesIO()
        image.save(file, "JPEG")
        out.append(file.getvalue())
    return out


def program(module: str, *given: str) -> str:
    command = [sys.executable, "-m", module, *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_arm_is_measured(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": jpeg_files(8, 48)}), tmp_path / "source.parquet")
    given = {
        "source": tmp_path / "source.parquet", "images": 16, "side": 32, "batch": 4, "steps": 1, "rounds": 1,
        "threads": 1, "teacher": "resnet8", "student": "resnet8", "out": tmp_path / "out.json",
    }  # fmt: skip
    shown = program("benchmarks.encoded_loop", *(f"--{k}={v}" for k, v in given.items()))
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert set(found) == set(ARMS)
    for arm in ARMS:
        assert f"| {arm} | " in shown
        assert found[arm]["images_per_second"] > 0
        assert found[arm]["peak_mib"] > 50
    assert found["decoding"]["cpu_ms"] < found["encoded"]["cpu_ms"]


def test_near_duplicates_are_tabled(tmp_path: Path) -> None:
    files = jpeg_files(6, 120)
    table = pa.table({"image": [*files, files[0]], "class": list("abcdefa")})
    pq.write_table(table, tmp_path / "source.parquet")
    source, out = tmp_path / "source.parquet", tmp_path / "out.json"
    shown = program(
        "benchmarks.near_duplicates", f"--source={source}", "--copies=3", f"--out={out}"
    )
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows["similarity 0.99 to 1.0"][:2] == [1, 1.0]
    assert rows["copies, recompressed"][:2] == [3, 1.0]
    assert "| copies, several at once | " in shown
