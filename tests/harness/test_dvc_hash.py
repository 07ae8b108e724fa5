"""The hash that DVC would give: against the repository's dvc.lock, and against DVC on a folder with every oddity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from webdistill.core import files
from webdistill.harness import spool
from webdistill.harness.dvc_hash import dvc_hash
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).parents[2]


def test_equals_the_lock_of_this_repository() -> None:
    stages = read_yaml(ROOT / "dvc.lock")["stages"].values()
    deps = {dep["path"]: dep["md5"] for stage in stages for dep in stage["deps"]}
    own = {path: md5 for path, md5 in deps.items() if path.startswith("data/quickstart/")}
    assert any(md5.endswith(".dir") for md5 in own.values())
    assert any(not md5.endswith(".dir") for md5 in own.values())
    for path, md5 in own.items():
        assert dvc_hash(ROOT / path, ROOT) == md5, path


def test_equals_what_dvc_says_of_nested_hidden_empty_and_ignored_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("b", "a/z", "a.txt", "a/deep/ä.bin", ".hidden", "__pycache__/x.pyc", "y.pyc", "B"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "nothing").mkdir()
    files.write_manifest(folder)
    (tmp_path / ".dvcignore").write_text("# code\n__pycache__/\n*.pyc\n!keep\n\n")
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    command = [sys.executable, "-m", "dvc", "add", "-q", "folder"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    (entry,) = read_yaml(tmp_path / "folder.dvc")["outs"]
    assert dvc_hash(folder, tmp_path) == entry["md5"]
    (folder / files.MANIFEST).write_text("[]")  # somebody else's file of that name
    assert dvc_hash(folder, tmp_path) != entry["md5"]


def test_what_a_manifest_lists_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shard").write_bytes(b"x" * 100)
    files.write_manifest(tmp_path)
    expected = dvc_hash(tmp_path)
    read: list[str] = []
    md5 = files.md5_file
    monkeypatch.setattr(
        "webdistill.harness.dvc_hash.md5_file", lambda path: read.append(path.name) or md5(path)
    )
    assert dvc_hash(tmp_path) == expected
    assert read == [files.MANIFEST]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    expected = dvc_hash(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone")
    assert dvc_hash(tmp_path) == expected


def test_the_code_in_an_experiments_key_is_what_stages_depend_on() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    deps = {
        dep
        for stage in stages
        for dep in stage["deps"]
        if dep.startswith(("stages/", "webdistill/"))
    }

    def inside(path: str, places: set[str]) -> bool:
        return any(Path(path).is_relative_to(place) for place in places)

    assert {dep for dep in deps if not inside(dep, set(spool.CODE))} == set(), "add to CODE"
    alone = {place for place in spool.CODE if not inside(place, deps) and place != "stages"}
    assert {place for place in alone if not any(inside(dep, {place}) for dep in deps)} == set()
