"""`prove-absent`: an image hidden in any file from filter onward is found; a taken-down one is proven gone (K4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.report import evidence
from webdistill.commands.provenance import absence, rows
from webdistill.core.files import remove, write_manifest
from webdistill.images.encoded import write_pictures
from webdistill.images.pool import PoolRow, write_pool
from webdistill.takedown import read_takedown, taken_down

if TYPE_CHECKING:
    from conftest import One, World

Build = Callable[..., "World"]


@pytest.fixture
def ask(say: Any) -> Callable[..., tuple[int, str, str]]:
    return partial(say, "prove-absent")


@pytest.mark.parametrize("few", [0, 1000])
def test_a_selected_image_is_found_in_exactly_the_files_that_name_it(
    build: Build, ask: Any, verdicts: Any, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(rows, "FEW", few)
    world = build()
    name = world.ids["a"]
    names = (name, "https://a.example.org/1.jpg", "https://b.example.net/copy.jpg")
    naive = {
        f"data/{path.relative_to(world.data)}"
        for path in world.data.rglob("*.parquet")
        if any(name in repr(pq.read_table(path).to_pylist()) for name in names)
    }
    assert len(naive) == 10
    found = verdicts(name)
    assert {file for file, verdict in found.items() if verdict == "PRESENT"} == naive
    assert set(found) == {
        f"data/{p.relative_to(world.data)}" for p in world.data.rglob("*") if p.is_file()
    }
    code, shown, _ = ask(name)
    assert code == 1
    assert shown.endswith("NOT proven absent from filter onward\n")
    assert "PRESENT  data/select/selection.parquet: 1 row" in shown


def test_a_taken_down_image_is_proven_gone_from_filter_onward_but_not_everywhere(
    build: Build, ask: Any, verdicts: Any
) -> None:
    world = build()
    name = world.ids["f"]
    code, shown, _ = ask(name)
    assert code == 0
    assert shown.endswith("\nabsent from filter onward\n")
    assert "dropped  data/filter/dropped.parquet: takedown 1" in shown
    before, onward = shown.split("from filter onward", 1)
    assert "PRESENT  data/fetch/ledger.parquet: 1 row" in before
    assert "PRESENT" not in onward
    assert verdicts(name)["data/fetch/pool/00001.parquet"] == "PRESENT"
    code, shown, _ = ask(name, "--everywhere")
    assert code == 1
    assert shown.endswith("NOT proven absent everywhere\n")


def test_a_local_image_is_found_by_the_path_that_leads_to_it(build: Build, ask: Any) -> None:
    build()
    for path in ("cat/9.jpg", "photos/cat/9.jpg"):
        shown = ask(path)[1]
        assert "PRESENT  data/fetch/ledger.parquet" in shown, path
        assert "no candidate matches" not in shown


@pytest.mark.parametrize("name", ["my photos/a cat.jpg", '"my photos/a cat.jpg"'])
def test_a_path_with_blanks_needs_no_quotes_but_the_shells(
    build: Build, ask: Any, name: str
) -> None:
    world = build()
    known = {"url": "a cat.jpg", "file": "my photos", "id": world.ids["f"]}
    world.append("fetch/ledger.parquet", **{"landing_page": "", **known})
    assert json.loads(ask(name, "--json")[1])["images"] == 1


@pytest.mark.parametrize("program", ["why", "prove-absent"])
def test_a_local_image_is_found_by_the_address_it_was_downloaded_from(
    build: Build, say: Any, program: str
) -> None:
    world = build()
    for path in ("search/candidates.parquet", "fetch/ledger.parquet"):
        table = pq.read_table(world.data / path)
        where = [url == "cat/9.jpg" for url in table["url"].to_pylist()]
        origin = pa.array(["https://from.example/9.jpg" if one else "" for one in where])
        at = table.column_names.index("origin")
        pq.write_table(table.set_column(at, "origin", origin), world.data / path)
    code, shown, _ = say(program, "http://from.example/9.jpg")
    assert code == 0
    assert world.ids["f"][:8] in shown or "1 image, 2 addresses" in shown


def test_an_image_that_no_file_names_is_absent_everywhere_with_a_warning(
    build: Build, ask: Any
) -> None:
    build()
    code, shown, _ = ask("https://nobody.example/1.jpg", "--everywhere")
    assert code == 0
    assert "absent everywhere" in shown
    assert "no candidate matches this name" in " ".join(ask("host:nobody.example")[1].split())


def test_a_report_made_from_other_outputs_proves_nothing(
    build: Build, ask: Any, verdicts: Any
) -> None:
    world = build()
    world.append("filter/kept.parquet", id="2" * 32)
    code, shown, _ = ask(world.ids["f"])
    assert code == 1
    assert "unproven  data/report/report.html: made from another data/filter/kept.parquet" in shown
    assert verdicts(world.ids["f"])["data/report/report.html"] == "unproven"


def test_the_pictures_of_a_training_that_was_stopped_are_looked_into(
    build: Build, ask: Any, verdicts: Any
) -> None:
    """They lie there by their bytes alone, and what the last training left may be of after the takedown."""
    world = build()
    pool = world.data / "fetch/pool"
    remove(pool)
    pictures = (PoolRow(o.id, sha256(o.id.encode()).digest(), 64, 48, "", "") for o in world.pool)
    write_pool(pictures, pool, 3)  # of bytes that name no id
    write_manifest(pool)
    left = world.root / ".work/distill/pictures-0123456789abcdef"
    write_pictures(pool, [world.ids["d"], world.ids["a"]], left)
    assert ask(world.ids["f"])[0] == 0
    remove(left)
    write_pictures(pool, [world.ids["d"], world.ids["f"]], left)
    assert ask(world.ids["f"])[0] == 1
    assert verdicts(world.ids["f"])[".work/distill/pictures-0123456789abcdef/pictures"] == "PRESENT"


def test_pages_and_pictures_that_wait_for_mlflow_prove_nothing(
    build: Build, ask: Any, verdicts: Any
) -> None:
    """Copies of an earlier run, in which a search by bytes finds no image; the report of today is one of today's."""
    world = build()
    page = world.data / "report/report.html"
    waiting = world.root / ".work/spool/1-report-2.files"
    waiting.mkdir(parents=True)
    (waiting / "report.html").write_bytes(page.read_bytes())
    assert ask(world.ids["f"])[0] == 0
    (waiting / "report.html").write_text("<title>of before</title>")
    (waiting / "views.png").write_bytes(b"a sheet of pictures")
    assert ask(world.ids["f"])[0] == 1
    found = verdicts(world.ids["f"])
    for name in ("report.html", "views.png"):
        assert found[f".work/spool/{waiting.name}/{name}"] == "unproven"


def test_an_image_dropped_for_its_score_may_be_shown_by_the_report(build: Build, ask: Any) -> None:
    world = build()
    code, shown, _ = ask(world.ids["b"])
    assert code == 1
    assert "report.html: may show pictures of images that were dropped as low_score" in shown
    (world.data / "report/report.html").unlink()
    assert ask(world.ids["b"])[0] == 0


def test_the_report_hides_what_a_proof_relies_on() -> None:
    assert set(evidence.HIDDEN) >= absence.HIDDEN


def test_test_images_with_the_same_pixels_are_told_apart(
    build: Build, ask: Any, verdicts: Any, one: type[One]
) -> None:
    leaked = "9999" + "8" * 28
    same = one("https://x.example/1.jpg", id=leaked, dropped=("takedown", 1.0, 0.0, ""))
    near = one("https://x.example/2.jpg", id="5" * 32, dropped=("leak", 1.0, 0.9, leaked))
    build(candidates=(same, near))
    assert ask(leaked)[0] == 0
    found = verdicts(leaked)
    assert found["data/evaluate/predictions.parquet"] == "test set"
    assert found["data/filter/dropped.parquet"] == "dropped"
    assert ask(leaked, "--everywhere")[0] == 1


HOSTS = {
    "host:a.example.org": "abe",
    "*.a.example.org": "abce",
    "*.img.a.example.org": "c",
    "HOST:B.Example.NET": "ad",
    "*.example.net": "adgh",
    "host:example.org": "",
    "*.xample.org": "",
    "host:page.example.com": "g",  # the page, not the file
}


@pytest.mark.parametrize("pattern", HOSTS)
def test_a_host_means_every_image_that_one_of_its_addresses_brought(
    build: Build, ask: Any, verdicts: Any, pattern: str
) -> None:
    """Also through an address that was a duplicate: its pixels are the first one's."""
    world = build()
    proof = json.loads(ask(pattern, "--json")[1])
    ids = {world.ids[letter] for letter in HOSTS[pattern]}
    assert proof["images"] == len(ids)
    selected = set(pq.read_table(world.data / "select/selection.parquet")["id"].to_pylist())
    expected = "PRESENT" if ids & selected else "absent"
    assert verdicts(pattern)["data/select/selection.parquet"] == expected


@pytest.mark.parametrize(
    "entry",
    ["{a}", "id:{a}", "{digest}", "https://a.example.org/1.jpg", "http://a.example.org/1.jpg", "cat/9.jpg",
     "host:b.example.net", "*.example.org", "https://page.example.com/10", "A.example.org/1.jpg", "./photos/cat/9.jpg",
     '"photos/cat/9.jpg"'],
)  # fmt: skip
def test_a_proof_means_the_same_images_as_takedown_txt(
    build: Build, ask: Any, tmp_path: Path, entry: str
) -> None:
    world = build()
    ledger = pq.read_table(world.data / "fetch/ledger.parquet")
    digest = next(r["sha256"] for r in ledger.to_pylist() if r["id"] == world.ids["a"])
    entry = entry.format(a=world.ids["a"], digest=digest)
    (tmp_path / "takedown.txt").write_text(f"{entry}\n")
    removed = taken_down(read_takedown(tmp_path / "takedown.txt"), ledger)
    assert removed
    assert json.loads(ask(entry, "--json")[1])["images"] == len(removed)


def test_an_address_and_the_sha256_mean_all_copies(build: Build, ask: Any) -> None:
    world = build()
    ledger = pq.read_table(world.data / "fetch/ledger.parquet").to_pylist()
    sha256 = next(row["sha256"] for row in ledger if row["id"] == world.ids["a"])
    for name in (
        world.ids["a"],
        "https://b.example.net/copy.jpg?x=1&y=2",
        sha256,
        f"sha256:{sha256}",
    ):
        proof = json.loads(ask(name, "--json")[1])
        assert (proof["images"], proof["addresses"]) == (1, 2)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("aaaa1111", "neither an id nor a sha256"),
        ("example.org", "host:example.org"),
        ("host:a/b", "no host name"),
        ("*.", "no host name"),
        ("", "is no entry"),
        ("a.jpg b.jpg", "is no entry"),
        ("https://a.example/1.jpg https://a.example/2.jpg", "more than one address"),
    ],
)
def test_what_is_no_full_name_is_refused(build: Build, ask: Any, name: str, problem: str) -> None:
    build()
    code, shown, err = ask(name)
    assert code == 2
    assert shown == ""
    assert problem in err
    assert err.count("\n") == 1


def test_nothing_is_proven_where_filter_has_not_run(build: Build, ask: Any) -> None:
    world = build("filter")
    code, _, err = ask(world.ids["f"])
    assert code == 2
    assert "dvc repro filter" in err


def test_stages_whose_outputs_are_not_here_are_named(build: Build, ask: Any) -> None:
    world = build("select", "distill")
    (world.data / "select").mkdir()
    (world.data / "select/metrics.json").write_text("{}")
    assert "not here    select, distill (not run, or not pulled)" in ask(world.ids["f"])[1]


def test_a_file_that_cannot_be_read_proves_nothing(build: Build, ask: Any, verdicts: Any) -> None:
    world = build()
    path = world.data / "select/selection.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert ask(world.ids["f"])[0] == 1
    assert verdicts(world.ids["f"])["data/select/selection.parquet"] == "unproven"


def test_without_a_ledger_what_the_name_itself_says_is_searched(build: Build, ask: Any) -> None:
    world = build("fetch", "report")
    assert ask(world.ids["a"])[0] == 1
    assert ask(world.ids["f"])[0] == 0
