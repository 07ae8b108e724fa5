"""fetch on embedded bytes and local files: statuses, ledger, pool, resuming, and that no path leaves its folder."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

import stages.fetch.__main__ as fetch_main
import stages.search.__main__ as search_main
from stages.fetch import judging
from stages.fetch.candidates import Candidate, read_candidates
from stages.fetch.crawl import Crawl
from stages.fetch.journal import KEY, MAGIC, Journal
from stages.fetch.outcomes import STATUSES, Body, Gate, Verdict
from stages.fetch.params import Fetch
from stages.fetch.sources import LocalImages
from stages.filter.rules import opt_out
from stages.search.params import Search
from tests.stages.test_fetch_http import SETTINGS, TASK
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, sha256_file
from webdistill.harness.params import Params
from webdistill.harness.stage import Stage

# a stage keeps its scratch space in the current folder
pytestmark = pytest.mark.usefixtures("place")

SEARCH = {
    "columns": {}, "keywords": {}, "negative": (),
    "openverse": {"enabled": False, "per_class": 1, "licences": ("cc0",)},
    "wikimedia": {"enabled": False, "per_class": 1},
    "inaturalist": {"enabled": False, "per_class": 200, "licences": ("cc0", "by")},
}  # fmt: skip


def picture(seed: int, size: int = 12, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def run(
    folder: Path, list_name: str, threads: int = 1, out: Path | None = None, **changes: object
) -> Stage:
    """search and fetch as their programs run them, with outputs under `out`, by default `folder`."""
    fetch = Fetch(**{**SETTINGS, **changes})
    search = Search(local=str(folder / list_name), **SEARCH)
    task = TASK.model_copy(update={"threads": threads})
    settings = Params(task, {"search": search, "fetch": fetch}, {})
    for name, main in (("search", search_main.main), ("fetch", fetch_main.main)):
        stage = Stage(name, settings, out or folder)
        main(stage)
        stage.publish()
    return stage


def save_list(folder: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), folder / "web.parquet", row_group_size=7)


def ledger(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = read_table(folder / "fetch" / "ledger.parquet").to_pylist()
    return rows


def pool(folder: Path) -> list[dict[str, object]]:
    shards = sorted((folder / "fetch" / "pool").glob("*.parquet"))
    return [row for shard in shards for row in read_table(shard).to_pylist()]


def test_every_candidate_ends_in_one_status(tmp_path: Path) -> None:
    (tmp_path / "near.png").write_bytes(picture(7))
    cases: list[tuple[str, bytes | None, str, str]] = [
        ("http://a.example/1", picture(1), "", "ok"),
        ("http://a.example/2", picture(1, kind="WEBP"), "", "ok"),  # lossy: other pixels
        ("http://a.example/3", picture(1), "", "duplicate"),
        ("http://a.example/4", picture(4), "noai", "opted_out"),
        ("http://a.example/5", picture(5, size=101), "", "too_large"),
        ("http://a.example/6", picture(6, size=101, kind="JPEG"), "", "too_many_pixels"),
        ("http://a.example/7", picture(7)[:-60], "", "truncated"),
        ("http://a.example/8", b"<html>", "", "not_an_image"),
        ("http://a.example/9", picture(9, kind="JPEG2000"), "", "unsupported_format"),
        ("near.png", None, "", "ok"),
        ("missing.png", None, "", "not_found"),
        ("../near.png", None, "", "outside_folder"),
        ("file:///etc/hostname", picture(3), "", "ok"),  # only a name: the bytes are embedded
    ]
    save_list(
        tmp_path,
        url=[c[0] for c in cases],
        image=[c[1] for c in cases],
        opt_out=[c[2] for c in cases],
        caption=[f"a cat {n}" for n in range(len(cases))],
        licence=["CC0"] * len(cases),
    )
    run(tmp_path, "web.parquet")
    rows = ledger(tmp_path)
    assert [row["status"] for row in rows] == [c[3] for c in cases]
    assert [row["row"] for row in rows] == list(range(len(cases)))
    assert rows[2]["id"] == rows[0]["id"], "a duplicate names the first"
    assert rows[0]["sha256"] == hashlib.sha256(picture(1)).hexdigest()
    assert rows[0]["bytes"] == len(picture(1))
    assert (rows[3]["sha256"], rows[3]["bytes"], rows[3]["opt_out"]) == ("", 0, "noai")
    assert {(row["licence"], row["provider"], row["robots"]) for row in rows} == {
        ("CC0", "list", "")
    }
    held = {str(row["file"]) for row in rows if row["source"] == "embedded"}
    assert held == {str(tmp_path / "web.parquet")}
    stored = pool(tmp_path)
    assert [row["id"] for row in stored] == [row["id"] for row in rows if row["status"] == "ok"]
    assert (stored[0]["query"], stored[0]["caption"], stored[0]["width"]) == ("cat", "a cat 0", 12)
    metrics = read_json(tmp_path / "fetch" / "metrics.json")
    counts = Counter(row["status"] for row in rows)
    assert metrics == {"candidates": len(cases), **{status: counts[status] for status in STATUSES}}
    assert all(isinstance(value, int) for value in metrics.values())


def test_an_opt_out_reaches_every_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("an opted-out URL was requested")

    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    monkeypatch.setattr("webdistill.web.client.Client.get", never)
    for name in ("a.png", "copy.png"):
        (tmp_path / name).write_bytes(picture(1))
    cases: list[tuple[str, bytes | None, str, str]] = [
        ("a.png", None, "", "opted_out"),  # flagged by a later row of the same URL
        ("http://a.example/1", picture(2), "noai", "opted_out"),
        ("http://a.example/2", None, "noai", "opted_out"),
        ("http://a.example/3", b"junk", "noai", "opted_out"),
        ("missing.png", None, "noai", "opted_out"),
        ("copy.png", None, "", "ok"),
        ("http://a.example/4", picture(2), "", "ok"),
        ("http://a.example/5", picture(3), "", "ok"),
        ("a.png", None, "noai", ""),
    ]
    columns = zip(*cases, strict=True)
    save_list(tmp_path, **dict(zip(("url", "image", "opt_out"), map(list, columns), strict=False)))
    run(tmp_path, "web.parquet")
    rows = ledger(tmp_path)
    assert [row["status"] for row in rows] == [case[3] for case in cases[:-1]]
    ids = [str(row["id"]) for row in rows]
    assert ids[:5] == [ids[5], ids[6], "", "", ""]
    assert {(row["sha256"], row["bytes"]) for row in rows[:5]} == {("", 0)}
    stored = [str(row["id"]) for row in pool(tmp_path)]
    assert stored == ids[5:]
    refused = {str(row["id"]): str(row["opt_out"]) for row in rows if row["opt_out"] and row["id"]}
    assert opt_out(stored, refused).drop.tolist() == [True, True, False]


def test_same_bytes_whatever_the_processes(tmp_path: Path) -> None:
    digests = []
    images = [picture(n % 40) for n in range(60)]
    save_list(tmp_path, image=images, caption=[f"dog {n}" for n in range(60)])
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        run(tmp_path, "web.parquet", threads=threads, out=folder)
        outputs = sorted(p for p in (folder / "fetch").rglob("*") if p.is_file())
        digests.append([(p.name, sha256_file(p)) for p in outputs])
    assert digests[0] == digests[1]
    assert len([name for name, _ in digests[0] if name[0] == "0"]) == 4, (
        "40 pictures in shards of 10"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store_size", 8),
        ("format", "jpeg"),
        ("max_pixels", 100),
        ("max_bytes", 1000),
        ("shard_size", 3),
        ("shard_bytes", 400),
    ],
)
def test_every_parameter_changes_an_output(tmp_path: Path, key: str, value: object) -> None:
    found = []
    for name, changes in (("default", {}), ("changed", {key: value})):
        folder = tmp_path / name
        folder.mkdir()
        save_list(folder, image=[picture(1), picture(2), picture(3, size=9), picture(4, size=20)])
        run(folder, "web.parquet", **changes)
        found.append(sha256_file(folder / "fetch" / "pool" / "manifest.json"))
    assert found[0] != found[1]


def test_nothing_usable_is_said_in_one_line(tmp_path: Path) -> None:
    save_list(tmp_path, image=[b"junk", b"more junk"])
    with pytest.raises(
        UserError, match=r"no image came through fetch \(2 candidates: not_an_image 2\)"
    ):
        run(tmp_path, "web.parquet")


def test_a_list_that_changed_after_search(tmp_path: Path) -> None:
    save_list(tmp_path, image=[picture(1)])
    run(tmp_path, "web.parquet")
    candidates = tmp_path / "search" / "candidates.parquet"
    save_list(tmp_path, image=[picture(2)])
    with pytest.raises(UserError, match="changed since search read it"):
        read_candidates(candidates, Path)


def test_a_changed_local_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "web.csv").write_text("url\na.png\nb.png\n")
    (tmp_path / "a.png").write_bytes(picture(1))
    run(tmp_path, "web.csv")
    assert [row["status"] for row in ledger(tmp_path)] == ["ok", "not_found"]
    (tmp_path / "b.png").write_bytes(picture(2))
    stage = run(tmp_path, "web.csv")
    assert [row["status"] for row in ledger(tmp_path)] == ["ok", "ok"]
    for folder in (stage.work, stage.scratch()):
        assert Journal(folder / "journal").find(np.zeros(1, KEY)).tolist() == [-1]
        assert (folder / "journal").read_bytes() == MAGIC, "nothing local is kept twice"


def test_what_may_be_kept_and_how_long(tmp_path: Path) -> None:
    save_list(tmp_path, image=[picture(1)])
    run(tmp_path, "web.parquet")
    candidates = read_candidates(tmp_path / "search" / "candidates.parquet", Path)

    def left(**changes: object) -> int:
        local, downloads = tmp_path / "local", tmp_path / "downloads"
        crawl = Crawl(candidates, Fetch(**{**SETTINGS, **changes}), downloads, local, 1)
        left = crawl.left
        assert sum(crawl.run()) == left
        assert (downloads / "journal").read_bytes() == MAGIC, "it would outlive a change of code"
        crawl.close()
        return left

    assert [left(), left(timeout=6.0, retries=1, shard_size=11, per_host=9, delay=1.0)] == [1, 0]
    assert [left(store_size=8), left(format="jpeg"), left(max_bytes=10_000)] == [1, 1, 1]
    assert left() == 0


def test_few_bytes_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = judged = most = 0

    def reading(_: object, one: Candidate, max_bytes: int) -> Body:
        nonlocal read, most
        read += 1
        most = max(most, read - judged)
        return Body("ok", b"x" * 100)

    async def apply(_: object, bodies: list[bytes]) -> list[Verdict]:
        nonlocal judged
        await asyncio.sleep(0.001)
        judged += len(bodies)
        return [Verdict("ok", "00", image=b"x") for _ in bodies]

    save_list(tmp_path, image=[b"x"] * 600)
    monkeypatch.setattr(LocalImages, "read", reading)
    monkeypatch.setattr(judging.Workers, "apply", apply)
    monkeypatch.setattr("stages.fetch.crawl.BATCH_BYTES", 500)
    monkeypatch.setattr(judging, "BATCH_BYTES", 500)
    monkeypatch.setattr(judging, "WAITING_BYTES", 2_000)
    run(tmp_path, "web.parquet")
    assert read == judged == 600
    assert most <= 2 * 5 + 20 + 5 + 5, "two batches judged, some waiting, one handed over, one read"


def test_out_of_memory_costs_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    assert Gate(10_000, 64, "webp")(picture(1)).status == "decoder_crash"


def test_a_picture_beyond_the_memory_of_a_worker_costs_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.fetch.crawl.MEMORY_PER_PIXEL", 0)
    monkeypatch.setattr("stages.fetch.crawl.MEMORY_BESIDE", 128 << 20)
    huge = io.BytesIO()
    Image.new("RGB", (7_000, 7_000)).save(huge, "PNG")
    save_list(tmp_path, image=[picture(1), huge.getvalue(), picture(2)])
    run(tmp_path, "web.parquet", max_pixels=64_000_000, max_bytes=1_000_000)
    assert [row["status"] for row in ledger(tmp_path)] == ["ok", "decoder_crash", "ok"]


def test_failures_are_listed_by_cause_and_host(tmp_path: Path) -> None:
    (tmp_path / "web.csv").write_text("url\na.png\nmissing.png\nb.png\n../c.png\n")
    (tmp_path / "a.png").write_bytes(picture(1))
    run(tmp_path, "web.csv")
    assert (tmp_path / "fetch" / "failures.csv").read_text() == (
        "cause,host,count\nnot_found,(local),2\noutside_folder,(local),1\n"
    )


def test_a_pool_of_jpegs(tmp_path: Path) -> None:
    save_list(tmp_path, image=[picture(1, size=40), picture(2), picture(1, size=40)])
    run(tmp_path, "web.parquet")
    lossless = [row["id"] for row in pool(tmp_path)]
    run(tmp_path, "web.parquet", format="jpeg")
    assert [row["status"] for row in ledger(tmp_path)] == ["ok", "ok", "duplicate"]
    assert [row["id"] for row in pool(tmp_path)] == lossless
    for row in pool(tmp_path):
        data = row["image"]["bytes"]
        assert data[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout", 0.0),
        ("retries", 11),
        ("per_host", 0),
        ("delay", -1.0),
        ("format", "png"),
        ("max_pixels", 10**9),
        ("store_size", "64"),
        ("x", 1),
    ],
)
def test_params_have_bounds(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Fetch(**{**SETTINGS, key: value})
