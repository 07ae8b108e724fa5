"""The small web is what truth.parquet says it is. On a synthetic source: smooth random pictures, ten classes."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.quickstart_data import damage, shifts, test_set, web
from pipelines.quickstart_data.candidates import Source
from pipelines.quickstart_data.classes import CLASSES
from pipelines.quickstart_data.junk import JUNK
from pipelines.quickstart_data.stock import Stock, apportion, long_tail, twins
from webdistill.harness.params import read_yaml

COUNTS = {
    "clean": 70, "shifted": 60, "opt_out": 12, "tiny": 12, "wrong_keyword": 40, "junk": 60, "exact_duplicate": 20,
    "near_duplicate": 40, "test_leak": 30, "broken": 40, "truncated": 20, "oversized": 12, "not_image": 40,
}  # fmt: skip
SETTINGS = web.Settings(0, 100, 2.5, 0.9, 0.5, COUNTS)
SHIFTS_OF = {
    "clean": {""}, "opt_out": {""}, "tiny": {""}, "exact_duplicate": {""}, "shifted": set(shifts.SHIFTS),
    "wrong_keyword": {"", *shifts.SHIFTS}, "junk": set(JUNK), "near_duplicate": set(shifts.NEAR),
    "test_leak": {"copy", *shifts.NEAR}, "broken": set(damage.BROKEN), "truncated": set(damage.FORMATS),
    "oversized": set(damage.OVERSIZED), "not_image": set(damage.NOT_IMAGE),
}  # fmt: skip
UNREADABLE = {"broken", "truncated", "oversized", "not_image"}

Row = dict[str, Any]


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    large = [
        np.asarray(Image.fromarray(s).resize((32, 32), Image.Resampling.BICUBIC)) for s in small
    ]
    return np.stack(large)


@pytest.fixture(scope="module")
def source() -> Source:
    tests = pictures(60, 2)
    labels = (np.arange(900) % 10).astype(np.uint8)
    digits = np.random.default_rng(3).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    ids = [test_set.image_id(p) for p in tests]
    return Source(pictures(900, 1), labels, tests, labels[:60], ids, digits)


@pytest.fixture(scope="module")
def built(source: Source) -> tuple[pa.Table, pa.Table]:
    return web.build(source, np.arange(100, 900), SETTINGS)


@pytest.fixture(scope="module")
def rows(built: tuple[pa.Table, pa.Table]) -> list[Row]:
    return [seen | real for seen, real in zip(*(table.to_pylist() for table in built), strict=True)]


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def test_it_has_the_columns_and_counts_it_promises(
    built: tuple[pa.Table, pa.Table], rows: list[Row]
) -> None:
    seen, real = built
    assert seen.column_names == [
        "url", "image", "query", "caption", "licence", "licence_url", "creator", "landing_page", "opt_out",
    ]  # fmt: skip
    assert real.column_names == [
        "row", "kind", "true_class", "keyword_right", "shift", "duplicate_of", "test_id", "source",
    ]  # fmt: skip
    assert Counter(row["kind"] for row in rows) == COUNTS
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert all(row["shift"] in SHIFTS_OF[row["kind"]] for row in rows)


def test_a_rebuild_is_equal_and_another_seed_is_not(source: Source) -> None:
    few = {kind: count // 4 for kind, count in COUNTS.items()}
    one, again, other = (
        web.build(source, np.arange(100, 900), replace(SETTINGS, seed=seed, counts=few))
        for seed in (0, 0, 1)
    )
    assert again[0].equals(one[0])
    assert again[1].equals(one[1])
    assert not one[0].equals(other[0])


def test_no_source_image_serves_twice_and_none_was_the_teachers(rows: list[Row]) -> None:
    own = [
        r["source"]
        for r in rows
        if r["kind"] not in ("exact_duplicate", "near_duplicate", "test_leak", "junk")
    ]
    assert len(set(own)) == len(own)
    assert min(own) >= 100
    assert {r["source"] for r in rows if r["kind"] == "junk"} == {-1}


def test_classes_and_keywords(rows: list[Row]) -> None:
    for row in rows:
        known = row["kind"] not in UNREADABLE | {"junk"}
        assert (row["true_class"] >= 0) == known
        assert row["keyword_right"] == (known and CLASSES[row["true_class"]] == row["query"])
        assert row["keyword_right"] == (known and row["kind"] != "wrong_keyword")
        if known and row["kind"] != "test_leak":
            assert row["true_class"] == row["source"] % 10  # the label in the synthetic source
        assert (row["opt_out"] != "") == (row["kind"] == "opt_out")


def test_what_should_open_opens_and_what_should_not_does_not(rows: list[Row]) -> None:
    for row in rows:
        if row["kind"] in ("broken", "truncated") or (
            row["kind"] == "not_image" and row["shift"] != "gif"
        ):
            with pytest.raises((OSError, SyntaxError, ValueError, struct.error)):
                opened(row["image"])
        elif row["kind"] == "not_image":
            assert row["image"].startswith(b"GIF8")
        elif row["kind"] != "oversized":
            with Image.open(io.BytesIO(row["image"])) as image:
                assert image.format in ("WEBP", "JPEG", "PNG")
            short = min(opened(row["image"]).size)
            assert (short < 16) if row["kind"] == "tiny" else (short >= shifts.SMALLEST), row[
                "kind"
            ]


def test_oversized_files_are_small_and_claim_at_least_a_hundred_million_pixels(
    rows: list[Row],
) -> None:
    seen: Counter[str] = Counter()
    for row in rows:
        if row["kind"] != "oversized":
            continue
        data, seen[row["shift"]] = row["image"], seen[row["shift"]] + 1
        assert len(data) < 40_000
        if row["shift"].startswith("png"):
            width, height = struct.unpack(">II", data[16:24])
        elif row["shift"] == "jpeg_header":
            height, width = struct.unpack(">HH", data[data.index(b"\xff\xc0") + 5 :][:4])
        else:
            bits = struct.unpack("<I", data[data.index(b"VP8L") + 9 :][:4])[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        assert width * height >= 100_000_000, row["shift"]
    assert len(seen) > 1


def test_a_bomb_is_a_whole_valid_picture() -> None:
    image = Image.new("RGB", (8, 8))
    data = damage.oversized(image, "png_bomb", np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as bomb:
                bomb.load()
                assert bomb.getextrema() == (0, 0)
        except Image.DecompressionBombError:
            pass  # above twice Pillow's limit: refused by the header alone


def test_originals_come_first_and_copies_look_like_them(rows: list[Row]) -> None:
    for row in rows:
        if row["kind"] not in ("exact_duplicate", "near_duplicate"):
            assert row["duplicate_of"] == -1
            continue
        original = rows[row["duplicate_of"]]
        assert original["row"] < row["row"]
        assert original["kind"] in ("clean", "shifted")
        assert original["url"] != row["url"]
        assert original["query"] == row["query"]
        assert (original["image"] == row["image"]) == (row["kind"] == "exact_duplicate")
        if row["kind"] == "near_duplicate":
            assert likeness(opened(original["image"]), opened(row["image"])) > 0.95


def test_leaks_look_like_the_test_image_they_name(source: Source, rows: list[Row]) -> None:
    by_id = dict(zip(source.test_ids, source.test_images, strict=True))
    for row in rows:
        assert (row["test_id"] != "") == (row["kind"] == "test_leak")
        if row["kind"] == "test_leak":
            original, leak = Image.fromarray(by_id[row["test_id"]]), opened(row["image"])
            assert likeness(original, leak) > 0.95
            assert (row["shift"] == "copy") == (leak.tobytes() == original.tobytes())


def likeness(first: Image.Image, second: Image.Image) -> float:
    """The better correlation of two 16 px thumbnails, one as it is and mirrored."""
    a, b = (
        np.asarray(i.resize((16, 16), Image.Resampling.BOX), np.float64) for i in (first, second)
    )
    return max(float(np.corrcoef(a.ravel(), other.ravel())[0, 1]) for other in (b, b[:, ::-1]))


def test_urls_are_unique_and_out_of_reach(rows: list[Row]) -> None:
    assert len({row["url"] for row in rows}) == len(rows)
    for row in rows:
        for key in ("url", "landing_page"):
            host = urlsplit(row[key]).hostname or ""
            assert host.endswith((".example", ".example.com", ".example.net", ".example.org"))
        assert (row["licence"] == "") == (row["licence_url"] == "")


@pytest.mark.parametrize("name", sorted(shifts.SHIFTS))
def test_every_shift_changes_the_picture_and_keeps_it_large_enough(name: str) -> None:
    image = Image.fromarray(pictures(1, 5)[0])
    rng = np.random.default_rng(0)
    changed = opened(shifts.shifted(image, name, rng))
    assert min(changed.size) >= shifts.SMALLEST
    small = np.asarray(changed.resize((32, 32)), np.float64)
    assert np.abs(small - np.asarray(image, np.float64)).mean() > 1


def test_a_photo_turned_by_exif_is_upright_again() -> None:
    image = Image.fromarray(pictures(1, 6)[0]).crop((0, 0, 32, 24))
    turned = shifts.decode(shifts.encode_sideways(image, 95))
    assert turned.size == image.size
    assert np.abs(np.asarray(turned, float) - np.asarray(image, float)).mean() < 6


def test_twins_are_found_mirrored_or_not() -> None:
    images, others = pictures(40, 7), pictures(20, 8)
    images[3] = images[11][:, ::-1]
    images[20] = others[4]
    found = twins(images, others, 0.9)
    assert set(np.flatnonzero(found)) == {3, 11, 20}


def test_apportion_and_long_tail() -> None:
    for total in (0, 1, 7, 1000):
        parts = apportion(total, [3.0, 1.0, 0.5])
        assert sum(parts) == total
        assert all(
            abs(part - total * share / 4.5) < 1
            for part, share in zip(parts, (3, 1, 0.5), strict=True)
        )
    shares = long_tail(10, 4.0, np.random.default_rng(0))
    assert max(shares) / min(shares) == pytest.approx(4.0)


def test_an_empty_stock_says_what_to_change() -> None:
    stock = Stock(np.array([0]), np.zeros(1, np.uint8), 2, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=r"web\.counts"):
        stock.take(1)


def test_test_set_is_stratified_lossless_and_named_by_content() -> None:
    labels = (np.arange(60) % 10).astype(np.uint8)
    images = pictures(60, 9)
    rows = test_set.choose(labels, 3, 0)
    assert len(set(rows)) == 30
    assert set(Counter(labels[rows]).values()) == {3}
    shown, kept = (table.to_pylist() for table in test_set.tables(images[rows], labels[rows]))
    assert [row["id"] for row in shown] == [row["id"] for row in kept]
    assert [row["label"] for row in kept] == list(labels[rows])
    for row, pixels in zip(shown, images[rows], strict=True):
        assert opened(row["image"]["bytes"]).tobytes() == pixels.tobytes()
        header = (32).to_bytes(4, "little") * 2
        assert row["id"] == hashlib.sha256(header + pixels.tobytes()).hexdigest()[:32]


def test_params_file_fits_the_settings() -> None:
    params = read_yaml(Path(web.__file__).parent / "params.yaml")
    settings = web.Settings(**params["web"])
    assert sum(settings.counts.values()) == 10_000
    with pytest.raises(ValueError, match="counts"):
        web.Settings(**(params["web"] | {"counts": {"clean": 1}}))
