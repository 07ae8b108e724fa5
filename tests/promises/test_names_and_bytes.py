"""Promises R5, S2 and S6 where no other test holds them: parameters in the lock, whole files, names."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from tests.stages import test_fetch as fetching
from webdistill.core.files import read_table, replace, write_table
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]


def test_the_lock_records_the_values_that_the_code_parses(tmp_path: Path) -> None:
    """R5, with a real lock: numbers, words and lists that YAML parsers read differently."""
    text = (
        "filter: {a: 1e-4, b: 5.0e-4, c: 010, d: yes, e: 1:30, f: ~, g: 1_000, h: [1, 2.0], i: '1e-4'}\n"
        "task: {seed: 0, on: off}\n"
    )
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  one: {cmd: 'true > out', params: [filter, task.seed, task.on], outs: [out]}\n"
    )
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, check=True)
    locked = read_yaml(tmp_path / "dvc.lock")["stages"]["one"]["params"]["params.yaml"]
    parsed = read_yaml(tmp_path / "params.yaml")
    assert locked["filter"] == parsed["filter"]
    assert {key: locked[f"task.{key}"] for key in parsed["task"]} == parsed["task"]
    assert parsed["filter"]["a"] == 0.0001
    assert parsed["filter"]["d"] == "yes"


def test_a_reader_sees_the_old_file_or_the_new_one_and_never_a_part(tmp_path: Path) -> None:
    """S2."""
    tables = [pa.table({"x": list(range(n, n + 20_000))}) for n in (0, 1)]
    target, end = tmp_path / "table.parquet", threading.Event()
    write_table(tables[0], target)
    seen: set[int] = set()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not end.is_set():
                found = read_table(target)
                assert found.num_rows == 20_000
                seen.add(found["x"][0].as_py())
        except BaseException as fault:
            faults.append(fault)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_table(tables[turn % 2], tmp_path / "new.parquet")
        replace(tmp_path / "new.parquet", target)
    end.set()
    reader.join()
    assert not faults
    assert seen == {0, 1}


def test_no_name_of_a_file_comes_from_the_web(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S6: URLs, captions, keywords and creators that would be paths leave no trace in the names of files."""
    monkeypatch.chdir(tmp_path)
    evil = [
        "../../evil",
        str(Path(os.sep, "tmp", "evil")),
        "evil\x00.png",
        "..\\evil",
        "C:evil",
        ".evil",
        "~/evil",
        "evil" * 80,
    ]
    folder = tmp_path / "list"
    folder.mkdir()
    fetching.save_list(
        folder, url=[f"https://{n}.example/{word}" for n, word in enumerate(evil)], caption=[*evil], query=[*evil],
        creator=[*evil], licence=[*evil], image=[fetching.picture(n) for n in range(len(evil))],
    )  # fmt: skip
    stage = fetching.run(folder, "web.parquet", out=tmp_path / "out")
    assert {row["status"] for row in fetching.ledger(tmp_path / "out")} == {"ok"}
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        "web.parquet", "candidates.parquet", "00000.parquet", "ledger.parquet", "failures.csv", "manifest.json",
        "metrics.json",
    } | {path.name for path in stage.root.joinpath(".work").rglob("*") if path.is_file()}  # fmt: skip
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not Path(os.sep, "tmp", "evil").exists()
