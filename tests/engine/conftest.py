"""A small project whose pool has nine shards, computed on the local engine."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.small_project import Project, create, set_params

STAGES = ("embed", "score", "filter")


@pytest.fixture(scope="session")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Shared: change a copy."""
    project = create(tmp_path_factory.mktemp("nine") / "project")
    web = project.root / "data/quickstart/web.parquet"
    pq.write_table(pq.read_table(web).slice(0, 56), web)
    set_params(project.root, ["fetch.shard_size=6"])
    project.run("dvc", "repro", "score", "filter")
    assert len(shards(project.root)) == 9
    return project


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "data/fetch/pool").glob("*.parquet"))


def outputs(root: Path) -> dict[str, bytes]:
    """Of the three stages."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for stage in STAGES
        for path in sorted((root / "data" / stage).rglob("*"))
        if path.is_file() and path.name != ".gitignore"  # which DVC writes
    }
