"""The report stage on a synthetic project: what the page must not do, equal bytes."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from stages.report.__main__ import main
from stages.report.evidence import HIDDEN
from stages.report.gather import gather
from tests.stages.report_project import (
    FATES,
    image_id,
)
from tests.stages.report_stage import Reader, Stage, rendered


def test_the_page_loads_nothing_and_runs_nothing(project: Path) -> None:
    tags = Reader(rendered(project)).tags
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "image", "use"} & {
        name for name, _ in tags
    }
    for name, attributes in tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "srcset", "poster", "background", "xlink:href", "action"):
            if key in attributes:
                assert name == "img"
                assert str(attributes[key]).startswith("data:image/")
        if "href" in attributes:
            assert name == "a"
            assert str(attributes["href"]).startswith(("#", "https://cc.example/"))
        assert "url(" not in str(attributes.get("style", ""))
    style = re.search(r"<style>(.*?)</style>", rendered(project), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in str(tags)


def test_everything_from_outside_is_escaped(project: Path) -> None:
    text = rendered(project)
    assert "<script" not in text
    assert "<b>ship</b>" not in text
    assert "&lt;b&gt;ship&lt;/b&gt;" in text
    assert "javascript:" not in text
    assert "secret" not in text
    assert "token" not in text


def test_bytes_are_equal_for_equal_inputs_and_below_the_limit(project: Path) -> None:
    outputs = []
    for _ in range(2):
        stage = Stage(project, True)
        main(stage)
        outputs.append([(project / name).read_bytes() for name in ("report.html", "card.md")])
    assert outputs[0] == outputs[1]
    assert len(outputs[0][0]) < 4 * 2**20
    assert stage.found["bytes"] == len(outputs[0][0])
    assert stage.found["pictures"] > 20
    assert str(project) not in outputs[0][0].decode()


def test_test_labels_are_not_read(project: Path) -> None:
    stage = Stage(project)
    gather(stage)
    assert not [name for name in stage.opened if "label" in name or "predictions" in name]


def test_taken_down_images_are_shown_nowhere(project: Path) -> None:
    text = rendered(project)
    evidence = gather(Stage(project))
    taken = [image_id(i) for i, fate in enumerate(FATES) if fate in HIDDEN]
    assert taken
    for name in taken:
        assert base64.b64encode(evidence.collected.pool.data(name)).decode() not in text


def test_without_truth_there_is_no_word_of_a_test_bed(project: Path) -> None:
    assert "Test bed" in rendered(project)
    assert 'id="truth"' in rendered(project)
    assert "Test bed" not in rendered(project, False)
    assert 'id="truth"' not in rendered(project, False)
