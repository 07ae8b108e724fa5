"""A job's file is whole or absent, an error names its shard, and the record of the run says which engine it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.stages.test_score import make_pool, make_stage, make_teacher
from webdistill.core.errors import UserError
from webdistill.core.files import write_table
from webdistill.engine import machine, running
from webdistill.engine.jobs import Facts, Function, Job, Task, maker, perform, whole
from webdistill.harness.progress import progress

ROOT = Path(__file__).parents[2]


def writes(shard: Path, target: Path) -> Iterator[int]:
    write_table(pa.table({"shard": [shard.name] * 3}), target)
    yield 3


def fails(shard: Path, target: Path) -> Iterator[int]:
    target.write_text("half of it")
    yield 1
    raise UserError("task.teacher is unfit; take another one")


def names_it(shard: Path, target: Path) -> Iterator[int]:
    yield 0
    raise UserError(f"{shard} is damaged")


def make(_: Facts) -> Function:
    return writes


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.parquet"
    steps = perform(writes, Path("pool/1.parquet"), target)
    assert next(steps) == 3
    assert not target.exists()
    assert list(steps) == []
    assert whole(target)
    assert [path.name for path in target.parent.iterdir()] == ["a.parquet"]
    data = bytearray(target.read_bytes())
    data[len(data) // 3] ^= 1
    target.write_bytes(data)
    assert not whole(target)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, "pool/1.parquet: task.teacher is unfit; take another one"),
        (names_it, "pool/1.parquet is damaged"),
    ],
)
def test_an_error_names_its_shard_once_and_leaves_nothing(
    tmp_path: Path, function: Function, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        list(perform(function, Path("pool/1.parquet"), tmp_path / "a.parquet"))
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_task_is_found_by_its_name_elsewhere() -> None:
    task = Task(make, {}, writes)
    assert maker(task.name)({}) is writes


def test_only_what_is_missing_is_made_and_the_record_names_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_teacher(tmp_path / "teacher")
    shards = sorted(make_pool(tmp_path, list(range(9)), 3).glob("*.parquet"))
    stage = make_stage(tmp_path, tmp_path / "teacher")
    work = stage.scratch("facts")
    jobs = [Job(shard, work / shard.name, 3) for shard in shards]
    list(perform(writes, jobs[1].shard, jobs[1].target))
    before = jobs[1].target.stat().st_ino
    running.run(stage, Task(make, {}, writes), jobs)
    assert [whole(job.target) for job in jobs] == [True, True, True]
    assert jobs[1].target.stat().st_ino == before
    assert "an earlier run finished 1 of 3 shards" in capsys.readouterr().err
    assert stage.tags["engine"] == "local"


def test_where_ray_is_missing_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError")
    code = "from webdistill.engine.cluster import connected\nwith connected(): pass"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "UserError: WEBDISTILL_ENGINE = ray needs Ray" in done.stderr
    assert "pip install -c constraints.txt 'webdistill[ray]'" in done.stderr


def test_the_first_difference_is_named_with_what_to_do() -> None:
    wanted = {"torch": "2.13.0", "arithmetic": "AVX512 bf16"}
    assert machine.difference(wanted, {**wanted, "more": "1"}) == ""
    assert machine.difference(wanted, {"torch": "2.13.0", "arithmetic": "AVX2"}) == (
        "arithmetic is AVX2 instead of AVX512 bf16; use machines of one kind"
    )
    assert machine.arithmetic("cpu").split()[0] == machine.facts("cpu")["arithmetic"].split()[0]


def test_a_bar_without_progress_names_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("webdistill.harness.progress.LINE_EVERY", 0.0)
    list(progress([0, 5], total=10, unit="img", label="embed", size=int, note=lambda: "2 workers"))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "embed: 0/10 img, 0.0 img/s, nothing finished yet; 2 workers"
    assert second.startswith("embed: 5/10 img")
    assert second.endswith("left; 2 workers")
