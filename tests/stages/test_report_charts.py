"""Markup, pictures and charts of the report."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from stages.report import charts
from stages.report.html import Html, link, tag
from stages.report.pictures import AS_IT_IS, Album, data_uri
from tests.stages.report_project import (
    IMAGE,
    webp,
)
from webdistill.core.errors import UserError
from webdistill.core.files import write_table


def test_markup_is_escaped_unless_made_by_tag() -> None:
    assert tag("p", "<i>", title='"x"') == '<p title="&quot;x&quot;">&lt;i&gt;</p>'
    assert tag("p", tag("i", "a"), None, 3) == "<p><i>a</i>3</p>"
    assert isinstance(tag("p"), Html)
    assert link("x", "javascript:alert(1)") == "x"
    assert tag("p", "a\x00b\ud800") == "<p>a b?</p>"


def test_large_pictures_are_made_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    uri = data_uri(file.getvalue())
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 2.5 * AS_IT_IS
    small = webp(0)
    assert data_uri(small) == "data:image/webp;base64," + base64.b64encode(small).decode()


def test_album_reads_across_row_groups_and_shards(tmp_path: Path) -> None:
    for shard in range(2):
        ids = [f"{shard}-{i}" for i in range(1500)]
        images = pa.array([{"bytes": name.encode(), "path": None} for name in ids], IMAGE)
        write_table(pa.table({"id": ids, "image": images}), tmp_path / f"{shard}.parquet")
    album = Album([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    for name in ("0-0", "1-1499", "0-1001", "1-3"):
        assert album.data(name) == name.encode()
    assert "2-0" not in album
    assert "missing" in album.figure("2-0", "gone")


def test_a_damaged_pool_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read"):
        Album([tmp_path / "x.parquet"])


@pytest.mark.parametrize(
    "values",
    [
        [(0.0, 0.0)],
        [(1.0, 5.0), (2.0, 5.0)],
        [(1.0, 1e-9), (60.0, 3e9)],
        [(1.0, float("inf")), (2.0, 1.0)],
        [(1.0, 1e16), (2.0, 1e16 + 2)],
    ],
)
def test_lines_stay_inside_the_picture(values: list[tuple[float, float]]) -> None:
    text = charts.lines({"loss": values}, "epoch")
    points = re.search(r'points="([^"]*)"', text)
    assert points
    for pair in points[1].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= charts.WIDTH
        assert 0 <= y <= charts.HEIGHT


def test_no_points_no_chart() -> None:
    assert charts.lines({"loss": []}, "epoch") == ""


def test_epochs_and_images_are_counted_in_whole_numbers() -> None:
    def named(drawn: Html) -> list[str]:
        return re.findall(r"<text[^>]*middle[^>]*>([\d.,]+)</text>", str(drawn))

    assert named(charts.lines({"loss": [(1, 0.5), (2, 0.25)]}, "epoch")) == ["1", "2"]
    assert named(charts.lines({"loss": [(1, 0.5), (60, 0.25)]}, "epoch")) == ["20", "40", "60"]
    heights = re.findall(
        r"<text[^>]*end[^>]*>([\d.,]+)</text>", str(charts.bars({"a": [1, 0]}, 0, 1, "score"))
    )
    assert heights == ["0", "1"]
