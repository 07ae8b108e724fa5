"""Shared fixtures: a stage that runs in an empty folder, and the switch that keeps tests off the tracking store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.small_project import Project

os.environ.setdefault("WEBDISTILL_TRACKING", "off")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The real pipeline after `dvc repro` on a few candidates, committed. Shared: change a copy, `Project.copy`."""
    from tests.small_project import create

    project = create(tmp_path_factory.mktemp("small") / "project")
    project.run("dvc", "repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "First run")
    return project
