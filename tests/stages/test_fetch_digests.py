"""F9: a download that has not the digest of its list is `changed`, and a parameter says whether it is taken."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.fetch.candidates import Candidates
from stages.fetch.crawl import Crawl
from stages.fetch.params import Fetch
from tests.stages.fetch_server import png
from tests.stages.test_fetch import ledger, picture, pool, run
from tests.stages.test_fetch_http import SETTINGS, Server, candidates, finish, server
from webdistill.core.files import read_json

pytestmark = pytest.mark.usefixtures("place")

__all__ = ["server"]  # a fixture
SHA256 = [hashlib.sha256(png(n)).hexdigest() for n in range(8)]
MD5 = [hashlib.md5(png(n)).hexdigest() for n in range(8)]


def save(path: Path, urls: list[str], **columns: list[object]) -> None:
    pq.write_table(pa.table({"url": urls, **columns}), path / "web.parquet")


@pytest.mark.parametrize(("changed", "status"), [("drop", "changed"), ("keep", "ok")])
def test_a_file_that_is_another_now(
    server: Server, tmp_path: Path, changed: str, status: str
) -> None:
    urls = [server.url(f"/ok/{n}") for n in range(6)]
    listed = [SHA256[0], SHA256[0], SHA256[2].upper(), "", None, "00"]
    save(tmp_path, urls, sha256=listed)
    run(tmp_path, "web.parquet", changed=changed)
    rows = ledger(tmp_path)
    assert [row["status"] for row in rows] == ["ok", status, "ok", "ok", "ok", status]
    said = f"sha256 {SHA256[1]}, in the list {SHA256[0]}"
    assert rows[1]["detail"] == (said if changed == "drop" else f"changed: {said}")
    assert rows[1]["sha256"] == SHA256[1], "of the file that came"
    stored = [row["id"] for row in pool(tmp_path)]
    assert stored == [row["id"] for row in rows if row["status"] == "ok"]
    assert len(stored) == (4 if changed == "drop" else 6)
    assert read_json(tmp_path / "fetch" / "metrics.json")["changed"] == (
        2 if changed == "drop" else 0
    )
    failed = (tmp_path / "fetch" / "failures.csv").read_text()
    assert ("changed,127.0.0.1,2" in failed) is (changed == "drop")


def test_the_digests_of_other_lists(server: Server, tmp_path: Path) -> None:
    """LAION's md5, both, base64, bytes, and words for none."""
    urls = [server.url(f"/ok/{n}") for n in range(7)]
    text = base64.b64encode(bytes.fromhex(MD5[2])).decode()
    save(
        tmp_path, urls, md5=[MD5[0], MD5[0], text, MD5[0], "nan", "None", MD5[6]],
        sha256=[None, None, None, SHA256[3], None, None, SHA256[0]],
    )  # fmt: skip
    run(tmp_path, "web.parquet")
    rows = ledger(tmp_path)
    assert [row["status"] for row in rows] == ["ok", "changed", "ok", "ok", "ok", "ok", "changed"]
    assert rows[1]["detail"] == f"md5 {MD5[1]}, in the list {MD5[0]}"
    assert str(rows[6]["detail"]).startswith("sha256 "), "the better one decides"


def test_a_broken_file_stays_what_it_is(server: Server, tmp_path: Path) -> None:
    urls = [server.url(path) for path in ("/junk/1", "/status/404", "/ok/2")]
    save(tmp_path, urls, sha256=[SHA256[0], SHA256[0], SHA256[2]])
    run(tmp_path, "web.parquet")
    assert [row["status"] for row in ledger(tmp_path)] == ["not_an_image", "not_found", "ok"]


def test_what_a_list_holds_itself_is_not_checked(tmp_path: Path) -> None:
    """img2dataset writes the digest of the original beside the picture that it has scaled."""
    (tmp_path / "near.png").write_bytes(picture(2))
    save(
        tmp_path,
        ["http://a.example/1", "near.png"],
        image=[picture(1), None],
        sha256=[SHA256[0], SHA256[0]],
    )
    run(tmp_path, "web.parquet")
    assert [row["status"] for row in ledger(tmp_path)] == ["ok", "ok"]


def test_nothing_is_asked_for_again_to_be_checked(server: Server, tmp_path: Path) -> None:
    """A run that ended is checked against whatever digests, and either setting, a list has later."""
    urls = [server.url("/ok/1")]

    def crawl(**columns: str) -> Crawl:
        table = candidates(urls)
        for name, value in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, pa.array([value]))
        return Crawl(Candidates(table, {}), Fetch(**SETTINGS), tmp_path / "kept", tmp_path / "s", 1)

    finish(crawl())
    assert [crawl(sha256=SHA256[1]).left, crawl(sha256=SHA256[0]).left] == [0, 0]
    assert crawl(md5=MD5[0]).left == 1, "its md5 was not taken"
    assert finish(crawl(md5=MD5[0]))[0].md5 == MD5[1]
    assert crawl(md5=MD5[3]).left == 0
    assert server.asked["127.0.0.1 /ok/1"] == 2
