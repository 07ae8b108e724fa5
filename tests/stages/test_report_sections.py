"""The sections of the report: what each says of a synthetic project."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.report.evidence import read_curve
from stages.report.gather import gather
from stages.report.sections.funnel import steps
from stages.report.sections.prototypes import clusters
from stages.report.sections.sources import UNKNOWN, host
from stages.report.sections.thresholds import just_above, just_below
from tests.stages.report_project import (
    FATES,
    SHEETS,
    build_project,
    image_id,
    sheet_png,
    webp,
)
from tests.stages.report_stage import Stage, rendered


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    build_project(root)
    return root


def test_the_funnel_adds_up(project: Path) -> None:
    found = steps(gather(Stage(project)).collected)  # type: ignore[arg-type]
    left = [step.images for step in found if not step.loss]
    assert left == [100, 88, 54, 40]
    running = None
    for step in found:
        if step.loss:
            running -= step.images
        else:
            assert running in (None, step.images)
            running = step.images


def test_sheets_show_the_images_nearest_to_the_threshold(project: Path) -> None:
    collected = gather(Stage(project)).collected  # type: ignore[arg-type]
    drops = [i for i, fate in enumerate(FATES) if fate == "low_score"]
    assert [d.id for d in just_below(collected, "low_score", 3)] == [
        image_id(i) for i in drops[:-4:-1]
    ]
    above = just_above(collected, "low_score", 0.25, 3)
    assert [name for name, _ in above] == [image_id(0), image_id(1), image_id(2)]
    assert above[0][1] == pytest.approx(0.4)


def test_a_leak_is_shown_beside_its_test_image(project: Path) -> None:
    text = rendered(project)
    assert base64.b64encode(webp(1000)).decode() in text
    assert base64.b64encode(webp(1001)).decode() not in text


def test_prototypes_report_the_mix_of_the_teachers_classes(project: Path) -> None:
    found = {c.index: c for c in clusters(gather(Stage(project)).collected)}  # type: ignore[arg-type]
    assert found[0].mix == [(0, 4 / 12), (1, 4 / 12), (2, 4 / 12)]
    assert found[0].entropy == pytest.approx(np.log(3))
    assert found[0].images[:2] == [image_id(0), image_id(7)]


def test_choices_that_changed_over_training_are_drawn(project: Path) -> None:
    text = rendered(project)
    assert "images the method chose" in text
    for name in ("kept share", "churn", "kept: cat"):
        assert f"<figcaption>{name}</figcaption>" in text
    path = project / "data/distill/selection_history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert "images the method chose" not in rendered(project)


def test_pictures_of_the_training_are_shown_under_what_they_are(project: Path) -> None:
    text = rendered(project)
    shown = {
        name: base64.b64encode(sheet_png(side)).decode() in text for name, side in SHEETS.items()
    }
    assert (shown["views.png"], shown["of_tomorrow.png"]) == (True, False)
    assert "<summary>what the student saw: a row per image, its first views</summary>" in text
    assert "<summary>a row per image: itself, then what the method made of it" in text
    assert "images the method kept most often" not in text, "there is no such picture"


def test_a_large_sheet_is_shown_in_its_own_size(project: Path) -> None:
    found = re.search(
        r'what the generator makes.*?<img src="data:image/\w+;base64,([^"]+)"', rendered(project)
    )
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.size == (300, 300)


def test_hosts_hold_no_user_port_or_query() -> None:
    assert host("", "https://user:secret@cdn.example:8080/a?token=1") == "cdn.example"
    assert host("embedded:17") == UNKNOWN
    assert host("https://[bad") == UNKNOWN


def test_curve_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("epoch,loss,note\n1,2.0,a\n2,nan,b\n3,1.0,\n")
    assert read_curve(tmp_path / "c.csv") == {"loss": [(1.0, 2.0), (3.0, 1.0)]}
