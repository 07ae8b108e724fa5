"""The model card."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.report.__main__ import main
from stages.report.card import plain
from tests.stages.report_project import (
    build_project,
)
from tests.stages.report_stage import Stage


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    build_project(root)
    return root


def test_card_text_cannot_break_out_of_its_table_cell() -> None:
    assert plain("a|b\n<script>") == "a\\|b &lt;script&gt;"


def test_the_card_states_accuracy_data_and_limits(project: Path) -> None:
    main(Stage(project, True))  # type: ignore[arg-type]
    text = (project / "card.md").read_text()
    for part in (
        "80.0 %",
        "90.0 %",
        "78,042",
        "student.onnx",
        "## Limits",
        "Test bed",
        "kept by the filter",
    ):
        assert part in text
    assert "<script" not in text
