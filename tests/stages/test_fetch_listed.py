"""From a list to the request line: search and fetch together ask for what the list says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stages.test_fetch import ledger, run
from tests.stages.test_fetch_http import Server, server

pytestmark = pytest.mark.usefixtures("place")

__all__ = ["server"]  # a fixture
LISTED = {  # as listed -> as it must be asked for
    "/ok/1/sig=/300x300/http%3A%2F%2Fcdn.example%2Fa%2Fb.jpg": "",
    "/ok/2/quote%27s(%28%29)@%40,%2C.jpg?a=1%2F2&b=x%2By": "",
    "/ok/3/café a.jpg?q=é b+c": "/ok/3/caf%C3%A9%20a.jpg?q=%C3%A9%20b+c",
    "/ok/4?crop=2669,1999,x0,y0&amp;width=80&amp;amp;h=2": "/ok/4?crop=2669,1999,x0,y0&width=80&h=2",
    "/ok/5/pct%zz%.jpg": "/ok/5/pct%25zz%25.jpg",
    "/ok/6?utm_source=commons&utm_medium=x": "",
    "/ok/7/a%2520b.jpg#part": "/ok/7/a%2520b.jpg",
    "/ok/8?Filters=[%7B&quot;n&quot;:1%7D]&#038;x": "/ok/8?Filters=%5B%7B%22n%22:1%7D%5D&x",
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_listed_is_what_is_asked_for(server: Server, tmp_path: Path, kind: str) -> None:
    urls = [server.url(path) for path in LISTED]
    urls[0] = urls[0].removeprefix("http:")  # //127.0.0.1:PORT/...
    path = tmp_path / f"web.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"url": urls, "caption": ["a cat"] * len(urls)}), path)
    else:
        path.write_text("url,caption\n" + "".join(f'"{url}",a cat\n' for url in urls))
    run(tmp_path, path.name)
    assert [row["status"] for row in ledger(tmp_path)] == ["ok"] * len(urls)
    asked = [line.split(" ", 1)[1] for line in server.log.read_text().splitlines()]
    expected = [target or listed for listed, target in LISTED.items()]
    assert sorted(one for one in asked if one.startswith("/ok/")) == sorted(expected)


def test_a_row_that_is_no_address_costs_itself_and_says_why(server: Server, tmp_path: Path) -> None:
    rows = [
        "http://[::127。0。0。1]/cat.jpg",
        server.url("/ok/1"),
        "http://a.example:99999/",
        "http://a\\b.example/",
    ]
    (tmp_path / "web.csv").write_text("url,caption\n" + "".join(f"{url},a cat\n" for url in rows))
    run(tmp_path, "web.csv")
    found = [(row["status"], row["detail"]) for row in ledger(tmp_path)]
    none = ("bad_url", "its host or port is none")
    signs = ("bad_url", "control characters, backslashes or halves of characters are in it")
    assert found == [none, ("ok", ""), none, signs]
