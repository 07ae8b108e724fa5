"""What several tests of one stage need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with what the report reads. Shared by the tests of a file: change a copy."""
    from tests.stages.report_project import build_project

    root = tmp_path_factory.mktemp("project")
    build_project(root)
    return root
