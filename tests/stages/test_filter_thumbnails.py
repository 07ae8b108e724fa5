"""Thumbnails on the disk: the same pixels as the pool's, in any order, without filling memory."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.filter import thumbnails
from stages.filter.thumbnails import SIDE, Subset, Thumbnails, read_pictures, shrink
from webdistill.core.files import write_manifest
from webdistill.core.section import Section
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.images import hashes
from webdistill.images.pool import PoolRow, load_images, write_pool

ROOT = Path(__file__).parents[2]


def stage_with(threads: int) -> Stage:
    facts = {"classes": ("cat", "dog"), "image_size": 32}
    task = Task(seed=0, threads=threads, teacher="", test_images="", test_labels="", **facts)
    return Stage("filter", Params(task, {"filter": Section()}, {}), None)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "pool"
    rng = np.random.default_rng(0)
    rows = []
    for i in range(45):
        width, height = (int(v) for v in rng.integers(8, 70, 2))
        out = io.BytesIO()
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, "PNG")
        rows.append(PoolRow(f"{i:032x}", out.getvalue(), width, height, "", ""))
    write_pool(rows, folder, 20)
    write_manifest(folder)
    return folder


@pytest.mark.parametrize("threads", [1, 2])
def test_they_are_what_the_pool_decodes_to(
    pool: Path, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "BATCH", 7)
    monkeypatch.setattr(thumbnails, "SERIAL_BELOW", 0)  # in processes however few there are
    stage = stage_with(threads)
    stage.work = tmp_path / "work"
    ids, pixels = load_images(pool, None, SIDE, 1)
    with Thumbnails(tmp_path) as kept:
        found = read_pictures(shrink(stage, pool), kept)
        assert found.ids == ids
        assert len(kept) == len(ids) == 45
        rows = np.array([3, 44, 0, 3])
        assert np.array_equal(kept[rows], pixels[rows])
        assert np.array_equal(kept[np.arange(45)], pixels)
        assert kept[rows[:0]].shape == (0, SIDE, SIDE, 3)
        assert np.array_equal(Subset(kept, np.array([5, 9, 40]))[np.array([2, 0])], pixels[[40, 5]])
    np.testing.assert_array_equal(found.contrast, hashes.contrast(pixels))
    np.testing.assert_array_equal(found.entropy, hashes.entropy(pixels))
    sides = np.random.default_rng(0)
    for width, height in zip(found.width, found.height, strict=True):
        assert [width, height] == sides.integers(8, 70, 2).tolist()
        sides.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)


def test_nothing_is_left_behind(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = stage_with(1)
    with Thumbnails(stage.work) as kept:
        read_pictures(shrink(stage, pool), kept)
    assert [path.name[:6] for path in stage.work.iterdir()] == [
        "resume"
    ]  # until the stage has published
    stage.publish()
    assert not [path for path in stage.work.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    """200 MiB are written and read; the process, numpy and all, stays far below that."""
    code = f"""
import sys
from pathlib import Path
import numpy as np
from stages.filter.thumbnails import Thumbnails
def now():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1])
before = now()
with Thumbnails(Path({str(tmp_path)!r})) as kept:
    for _ in range(64):
        kept.append(np.full((1024, 32, 32, 3), 7, np.uint8))
    for start in range(0, 65536, 1024):
        assert kept[np.arange(start, start + 1024)].sum() == 7 * 1024 * 3072
    sys.exit((now() - before) // 1024 > 40)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
