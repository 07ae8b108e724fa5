"""The sections of the report: what each says of a synthetic project."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from stages.distill.method_params import POOL_FREE
from stages.report import wording
from stages.report.evidence import read_curve
from stages.report.gather import gather
from stages.report.ledger import OWN, UNKNOWN, host
from stages.report.page import page
from stages.report.sections.funnel import steps
from stages.report.sections.moved import moved
from stages.report.sections.prototypes import clusters
from stages.report.sections.results import results
from stages.report.sections.sources import sources
from stages.report.sections.thresholds import just_above, just_below
from tests.stages.report_project import (
    FATES,
    SHEETS,
    image_id,
    sheet_png,
    webp,
)
from tests.stages.report_stage import Stage, rendered
from webdistill.web import intranet


def test_the_funnel_adds_up(project: Path) -> None:
    found = steps(gather(Stage(project)).collected)
    left = [step.images for step in found if not step.loss]
    assert left == [100, 88, 54, 40]
    running = None
    for step in found:
        if step.loss:
            running -= step.images
        else:
            assert running in (None, step.images)
            running = step.images


def test_the_report_knows_the_methods_that_use_no_image(project: Path) -> None:
    assert wording.POOL_FREE == POOL_FREE
    found = gather(Stage(project))
    settings = {**found.params["distill"], "method": "fast"}
    other = replace(found, params={**found.params, "distill": settings})
    assert "with images from the web" in page(found)
    assert "with images that the method made itself" in page(other)


def test_a_compensation_is_told_with_its_two_parts_and_its_mean(project: Path) -> None:
    found = gather(Stage(project))
    assert "compensat" not in results(found)
    tops = {"raw_top1": 0.41, "compensated_top1": 0.42, "mean_top1": 0.43}
    parts = {
        "compensation_constant": [(1.0, 9.0), (2.0, 1.25)],
        "compensation_by_image": [(1.0, 9.0), (2.0, 0.75)],
    }
    measured = replace(
        found.measured,
        figures={**found.measured.figures, **tops},
        curve={**found.measured.curve, **parts},
    )
    text = results(replace(found, measured=measured))
    for name, value in (
        ("answers without compensation", r"41\.00.?%"), ("compensated answers", r"42\.00.?%"),
        ("same mean compensation for every image", r"43\.00.?%"),
        ("same for every image, rms", "1.250"), ("depends on the image, rms", "0.750"),
    ):  # fmt: skip
        assert re.search(rf"{name}</td><td[^>]*>{value}", text), name


def test_the_prototypes_that_move_answers_most_are_shown_with_their_images(project: Path) -> None:
    assert '<section id="moved">' not in rendered(project)
    columns = "prototype,attention,spread,push,asking,class/cat,class/dog,class/<b>ship</b>"
    hidden = image_id(FATES.index("takedown"))
    (project / "data/distill/confounders.csv").write_text(
        f"{columns}\n0,0.5,0.1,0.2,{image_id(3)} {hidden},0.3,-0.1,0\n1,0.2,0.1,0.1,,0,0,0.1\n"
        f"2,0.3,0.05,0.4,{image_id(9)},-0.5,0.25,0.125\n"
    )
    found = gather(Stage(project))
    text = moved(found)
    first, second = text.index("#2"), text.index("#0")
    assert first < second
    assert "#1" not in text, "two are asked for"
    assert "95" in text[: text.index("#2")], "(0.16 + 0.04) / 0.21 of the squares"
    # 3 and the hidden one ask for 0, which has 12 of 40 images, 3 among them; 9 asks for 2, which has 14 without it
    assert re.search(r"33\.3.?% are of its own cluster, by chance 31\.7.?%", text)
    assert "raises dog +0.25, &lt;b&gt;ship&lt;/b&gt; +0.12" in text[first:second]
    assert "lowers cat -0.50" in text[first:second]
    for part, names in ((text[first:second], [9]), (text[second:], [3, 0, 7])):
        for name in names:
            assert base64.b64encode(webp(name)).decode() in part
    assert base64.b64encode(webp(FATES.index("takedown"))).decode() not in text


def test_a_compensation_that_did_not_help_is_said_to_be_none(project: Path) -> None:
    (project / "data/distill/confounders.csv").write_text(
        "prototype,attention,spread,push,asking,class/cat\n0,0.5,0.1,0.2,,0.3\n"
    )
    found = gather(Stage(project))

    def told(raw: float, mean: float) -> str:
        tops = {"raw_top1": raw, "compensated_top1": 0.42, "mean_top1": mean}
        figures = {**found.measured.figures, **tops}
        return moved(replace(found, measured=replace(found.measured, figures=figures)))

    assert "did not help" not in told(0.41, 0.41)
    assert re.search(r"no better than the raw answers \(43\.00.?%\): ", told(0.43, 0.41))
    assert re.search(r"than the same mean compensation for every image \(42\.00", told(0.41, 0.42))


def test_sheets_show_the_images_nearest_to_the_threshold(project: Path) -> None:
    collected = gather(Stage(project)).collected
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
    found = {c.index: c for c in clusters(gather(Stage(project)).collected)}
    assert found[0].mix == [(0, 4 / 12), (1, 4 / 12), (2, 4 / 12)]
    assert found[0].entropy == pytest.approx(np.log(3))
    assert found[0].images[:2].tolist() == [image_id(0).encode(), image_id(7).encode()]


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
    assert "<summary>training views of the student: a row per image</summary>" in text
    assert "<summary>a row per image: the image, then what the method made from it" in text
    assert "images the method kept most often" not in text, "there is no such picture"


def test_a_large_sheet_is_shown_in_its_own_size(project: Path) -> None:
    found = re.search(r'generator.*?<img src="data:image/\w+;base64,([^"]+)"', rendered(project))
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.size == (300, 300)


def test_images_of_the_own_network_are_told(project: Path) -> None:
    evidence = gather(Stage(project))
    assert "own network" not in str(sources(evidence))
    ledger = evidence.collected.ledger
    where = [status == "ok" for status in ledger["status"].to_pylist()]
    own = pa.array(where, pa.bool_())
    told = ledger.set_column(ledger.schema.get_field_index("own"), "own", own)
    changed = replace(evidence, collected=replace(evidence.collected, ledger=told))
    line = f"{sum(where)} images of the pool came from hosts of the own network, which WEBDISTILL_ALLOW_HOSTS allowed."
    assert line in str(sources(changed))
    assert intranet.OWN.startswith(OWN), "the words of the ledger"


def test_hosts_hold_no_user_port_or_query() -> None:
    assert host("", "https://user:secret@cdn.example:8080/a?token=1") == "cdn.example"
    assert host("embedded:17") == UNKNOWN
    assert host("https://[bad") == UNKNOWN


def test_curve_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("epoch,loss,note\n1,2.0,a\n2,nan,b\n3,1.0,\n")
    assert read_curve(tmp_path / "c.csv") == {"loss": [(1.0, 2.0), (3.0, 1.0)]}
