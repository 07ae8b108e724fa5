"""fetch over http: what the ledger says, what is asked again, and that no host holds up the others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

import stages.fetch.__main__ as fetch_main
import stages.fetch.crawl as crawl_module
import stages.fetch.outcomes as outcomes_module
from stages.fetch.candidates import COLUMNS, Candidates, read_candidates
from stages.fetch.crawl import Crawl
from stages.fetch.outcomes import STATUSES, Outcome, Verdict
from stages.fetch.params import Fetch
from stages.fetch.sources import LocalImages
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, write_table
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
from webdistill.images.workers import Workers
from webdistill.web import client as client_module
from webdistill.web.hosts import Turn
from webdistill.web.robots import Robots

SERVER = Path(__file__).with_name("fetch_server.py")
SETTINGS = {
    "store_size": 64, "format": "webp", "max_pixels": 10_000, "max_bytes": 20_000, "timeout": 5.0, "retries": 0,
    "per_host": 4, "delay": 0.0, "changed": "drop", "shard_size": 10, "shard_bytes": 1 << 29,
}  # fmt: skip
TASK = Task(
    seed=0,
    threads=1,
    classes=("cat", "dog"),
    image_size=32,
    teacher="",
    test_images="",
    test_labels="",
)


@dataclass
class Server:
    """The server's process as tests see it."""

    port: int
    log: Path

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def asked(self) -> Counter[str]:
        """How often each `host path` was asked for."""
        return Counter(self.log.read_text().splitlines())

    @property
    def times(self) -> list[float]:
        """When each request came, of all hosts."""
        lines = self.log.with_name(f"{self.log.name}.times").read_text().splitlines()
        return [float(line) for line in lines]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    log = tmp_path / "requests.log"
    with subprocess.Popen(
        [sys.executable, str(SERVER), str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()), log)
        process.stdin.close()


def candidates(urls: list[str], opt_outs: list[str] | None = None) -> pa.Table:
    columns: dict[str, list[object]] = {name: [""] * len(urls) for name in COLUMNS}
    columns |= {"url": [*urls], "source": ["http"] * len(urls), "row": [*range(len(urls))]}
    columns |= {"licence": ["by"] * len(urls), "opt_out": [*(opt_outs or [""] * len(urls))]}
    return pa.table(columns)


def crawl(folder: Path, urls: list[str], **changes: object) -> Crawl:
    given = Candidates(candidates(urls), {})
    return Crawl(given, Fetch(**{**SETTINGS, **changes}), folder / "kept", folder / "scratch", 1)


def finish(work: Crawl) -> list[Outcome]:
    left = work.left
    assert sum(work.run()) == left
    found = list(work.outcomes())
    work.clean()
    return found


def test_what_the_ledger_says_of_answers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = [  # URL, opt_out of the list, status, robots
        (server.url("/ok/1"), "", "ok", "allowed"),
        (server.url("/ok/2"), "noai", "opted_out", ""),
        (server.url("/noai/3"), "", "opted_out", "allowed"),
        (server.url("/ok/4", "127.0.0.2"), "", "robots", "disallowed"),
        (server.url("/ok/5", "127.0.0.3"), "", "robots", "unreachable"),
        (server.url("/status/404"), "", "not_found", "allowed"),
        (server.url("/status/403"), "", "http_error", "allowed"),
        (server.url("/status/429"), "", "rate_limited", "allowed"),
        (server.url("/junk/6"), "", "not_an_image", "allowed"),
        (server.url("/ok/1/again"), "", "duplicate", "allowed"),
        (server.url("/reserved/7", "127.0.0.4"), "", "opted_out", "allowed"),
        (server.url("/ok/8", "127.0.0.4"), "", "ok", "allowed"),
        ("http://10.0.0.1/x", "", "not_public", "unreachable"),
        ("http:///x", "", "bad_url", ""),
    ]
    made = tmp_path / "out" / "search" / "candidates.parquet"
    made.parent.mkdir(parents=True)
    write_table(candidates([c[0] for c in cases], [c[1] for c in cases]), made)
    stage = Stage("fetch", Params(TASK, {"fetch": Fetch(**SETTINGS)}, {}), tmp_path / "out")
    fetch_main.main(stage)
    stage.publish()
    rows = read_table(stage.data / "ledger.parquet").to_pylist()
    found = [(row["url"], row["status"], row["robots"]) for row in rows]
    assert found == [(url, status, robots) for url, _, status, robots in cases]
    assert [row["opt_out"] for row in rows[:4]] == ["", "noai", "X-Robots-Tag: noai", ""]
    assert rows[10]["opt_out"] == "tdmrep.json: 1"
    codes = [row["http_status"] for row in rows]
    assert codes == [200, 0, 200, 0, 500, 404, 403, 429, 200, 200, 0, 200, 0, 0]
    assert {row["licence"] for row in rows} == {"by"}
    metrics = read_json(stage.data / "metrics.json")
    assert sum(metrics[status] for status in STATUSES) == metrics["candidates"] == len(cases)
    assert (stage.data / "failures.csv").read_text().splitlines()[:3] == [
        "cause,host,count",
        "opted_out,127.0.0.1,2",
        "bad_url,(none),1",
    ]
    asked = server.asked
    assert not [line for line in asked if line.endswith(("/ok/2", "/ok/4", "/ok/5", "/reserved/7"))]
    assert {asked[f"{host} /robots.txt"] for host in ("127.0.0.1", "127.0.0.2")} == {1}


POISON = (
    "http://[::１]/cat.jpg", "http://[::127。0。0。1]/", "http://[fe80::1%25eth0]/", "http://[:]/", "http://a\0b/",
    "http://xn--a/", "http://a.example:99999/", "http://%00/", "http://[::1]:３/", "//][@", "http://a..b/",
)  # fmt: skip


def test_an_address_that_is_none_costs_its_own_row_only(server: Server, tmp_path: Path) -> None:
    urls = [*POISON, server.url("/ok/1")]
    found = finish(crawl(tmp_path, urls))
    assert [outcome.status for outcome in found] == ["bad_url"] * len(POISON) + ["ok"]
    again = crawl(tmp_path, urls)
    assert again.left == 0, "what can never be asked for is final"
    assert list(again.outcomes()) == found


class _Defect(Exception):
    """Of a kind that nobody expects; its message holds what must not be shown."""


@pytest.mark.parametrize("where", ["parse_url", "Robots.rules", "Turn.enter", "open_image"])
def test_a_defect_costs_its_own_candidate_and_is_told_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], where: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    urls = [server.url(path) for path in ("/ok/1", "/ok/2", "/ok/3/?token=geheim")]
    made = tmp_path / "out" / "search" / "candidates.parquet"
    made.parent.mkdir(parents=True)
    write_table(candidates([*urls, server.url("/ok/4", "127.0.0.4")]), made)

    def broken(*_: object, **__: object) -> None:
        raise _Defect(*urls)

    holder = {"parse_url": client_module, "Robots.rules": Robots, "Turn.enter": Turn}
    stage = Stage("fetch", Params(TASK, {"fetch": Fetch(**SETTINGS)}, {}), tmp_path / "out")
    with monkeypatch.context() as patch:
        if where == "open_image":
            patch.setattr(Workers, "apply", _here)
            patch.setattr(outcomes_module, "open_image", broken)
        else:
            patch.setattr(holder[where], where.rpartition(".")[2], broken)
        with pytest.raises(UserError, match="no image came through fetch"):
            fetch_main.main(stage)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "defect" in one]
    assert "_Defect at test_fetch_http.py:" in line
    assert "geheim" not in line
    stage = Stage("fetch", stage.settings, tmp_path / "out")
    stage.discard()
    fetch_main.main(stage)  # mended: a failed candidate is not final
    stage.publish()
    assert read_json(stage.data / "metrics.json") | {"ok": 4, "failed": 0} == read_json(
        stage.data / "metrics.json"
    )


async def _here(workers: Workers[bytes, Verdict], items: Sequence[bytes]) -> list[Verdict]:
    return [workers._function(item) for item in items]


def test_a_defect_of_one_url_leaves_the_others(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Turn.enter

    async def sometimes(turn: Turn, name: str, delay: float) -> bool:
        if name == "127.0.0.4":
            raise _Defect
        return await enter(turn, name, delay)

    monkeypatch.setattr(Turn, "enter", sometimes)
    urls = [server.url("/ok/1"), server.url("/ok/2", "127.0.0.4"), server.url("/ok/3")]
    work = crawl(tmp_path, urls)
    assert [outcome.status for outcome in finish(work)] == ["ok", "failed", "ok"]
    (line,) = work.defects()
    assert "row 1 " in line
    assert "127.0.0.4" in line
    assert not list(work.defects()), "once"


def test_a_later_run_asks_only_for_what_may_have_passed(server: Server, tmp_path: Path) -> None:
    paths = ["/ok/1", "/status/404", "/flaky/1", "/ok/2", "/status/403", "/status/500", "/noai/3"]
    urls = [server.url(path) for path in paths]
    expected = ["ok", "not_found", "http_error", "ok", "http_error", "http_error", "opted_out"]
    first = finish(crawl(tmp_path, urls))
    assert [outcome.status for outcome in first] == expected
    assert all(outcome.image for outcome in first if outcome.status == "ok")
    second = finish(crawl(tmp_path, urls))
    assert [outcome.status for outcome in second] == [*expected[:2], "ok", *expected[3:]]
    asked = server.asked
    assert [asked[f"127.0.0.1 {path}"] for path in paths] == [1, 1, 2, 1, 1, 2, 1]


def test_other_candidates_are_asked_for_and_known_ones_moved(
    server: Server, tmp_path: Path
) -> None:
    urls = [server.url(f"/ok/{n}") for n in range(6)]
    before = finish(crawl(tmp_path, urls[:4]))
    after = finish(crawl(tmp_path, [urls[5], *reversed(urls[:3])]))
    assert after[1:] == before[2::-1]
    assert finish(crawl(tmp_path, urls))[:3] == before[:3]
    asked = server.asked
    assert [asked[f"127.0.0.1 /ok/{n}"] for n in range(6)] == [1, 1, 1, 2, 1, 1], (
        "what a run has no use for is not kept"
    )


def test_what_its_owner_refuses_later_is_forgotten(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/ok/{n}") for n in range(2)]
    finish(crawl(tmp_path, urls))
    refused = Candidates(candidates(urls, ["", "noai"]), {})
    work = Crawl(refused, Fetch(**SETTINGS), tmp_path / "kept", tmp_path / "scratch", 1)
    image = next(iter(work.outcomes())).image
    found = finish(work)
    assert (found[0].image, found[1]) == (image, Outcome("opted_out"))
    assert sum(server.asked.values()) == 6, "robots.txt, tdmrep.json, two ai.txt, and once each"
    assert finish(crawl(tmp_path, urls))[1].status == "ok"
    assert server.asked["127.0.0.1 /ok/1"] == 2, "its picture was not kept"


def test_a_host_that_hangs_does_not_hold_up_the_others(server: Server, tmp_path: Path) -> None:
    hanging = [server.url(f"/hang/{n}", "127.0.0.4") for n in range(500)]
    good = [server.url(f"/ok/{n}") for n in range(100)]
    work = crawl(tmp_path, [*hanging, *good], timeout=60.0, per_host=3)
    done = 0
    started = time.monotonic()
    for news in work.run():
        done += news
        if done == len(good):
            break
    assert time.monotonic() - started < 30
    asked = server.asked
    assert sum(asked[f"127.0.0.4 /hang/{n}"] for n in range(500)) == 3
    work.close()
    again = crawl(tmp_path, good)
    assert again.left == 0, "a crawl that was broken off has lost nothing"
    again.close()


def test_requests_to_one_host_start_delay_seconds_apart(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/ok/{n}") for n in range(4)]
    found = finish(crawl(tmp_path, urls, delay=0.3))
    assert [one.status for one in found] == ["ok"] * 4
    times = server.times
    assert len(times) == 8, "robots.txt, tdmrep.json and two ai.txt first"
    assert times[-1] - times[0] >= 1.0, "1.5 s, but a busy server logs the first one late"


def test_a_url_that_hangs_costs_its_timeout(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    (found,) = finish(crawl(tmp_path, [server.url("/hang/1")], timeout=1.0))
    assert found.status == "timeout"
    assert time.monotonic() - started < 30, "the server would answer after a minute"
    assert server.asked["127.0.0.1 /hang/1"] == 1


def test_what_exceeds_max_bytes_is_too_large(server: Server, tmp_path: Path) -> None:
    urls = [server.url("/large/1"), server.url("/ok/2")]
    for max_bytes, status in ((20_000, "too_large"), (40_000, "ok")):
        found = finish(crawl(tmp_path, urls, max_bytes=max_bytes))
        assert [one.status for one in found] == [status, "ok"]


def test_who_waits_for_another_try_lets_others_go_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawl_module, "AHEAD", 1)
    urls = [server.url(path) for path in ("/status/500", "/ok/1", "/ok/2")]
    found = finish(crawl(tmp_path, urls, per_host=1, retries=1))
    assert [one.status for one in found] == ["http_error", "ok", "ok"]
    asked = [line.split()[1] for line in server.log.read_text().splitlines()][4:]
    assert asked == ["/status/500", "/ok/1", "/ok/2", "/status/500"]


@pytest.mark.parametrize(("processes", "per_host"), [(1, 1), (2, 64)])
def test_results_come_in_the_candidates_order(
    server: Server, tmp_path: Path, processes: int, per_host: int
) -> None:
    hosts = ("127.0.0.1", "127.0.0.4")
    urls = [server.url(f"/ok/{n % 50}/{n}", hosts[n % 2]) for n in range(200)]
    given = Candidates(candidates(urls), {})
    params = Fetch(**{**SETTINGS, "per_host": per_host})
    work = Crawl(given, params, tmp_path / "kept", tmp_path / "scratch", processes)
    ids = [outcome.id for outcome in finish(work)]
    assert len(set(ids)) == 50
    assert ids == ids[:50] * 4


def test_a_contact_is_needed_only_for_requests(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [server.url("/ok/1")]
    monkeypatch.delenv("WEBDISTILL_CONTACT")
    with pytest.raises(UserError, match="WEBDISTILL_CONTACT"):
        crawl(tmp_path, urls)
    refused = Candidates(candidates(urls, ["noai"]), {})
    work = Crawl(refused, Fetch(**SETTINGS), tmp_path / "a", tmp_path / "b", 1)
    assert [outcome.status for outcome in finish(work)] == ["opted_out"]


def test_what_stops_the_crawl_is_said_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("the list is damaged")

    monkeypatch.setattr(LocalImages, "read", fail)
    monkeypatch.setattr(LocalImages, "mark", lambda *_: ())
    rows = candidates(["a.png", "b.png"]).to_pydict() | {"source": ["file", "file"]}
    given = Candidates(pa.table(rows), {})
    work = Crawl(given, Fetch(**SETTINGS), tmp_path / "kept", tmp_path / "scratch", 1)
    with pytest.raises(UserError, match="the list is damaged"):
        list(work.run())


def test_candidates_of_another_version_are_refused(tmp_path: Path) -> None:
    write_table(pa.table({"url": ["http://a.example/"]}), tmp_path / "candidates.parquet")
    with pytest.raises(UserError, match="has no column"):
        read_candidates(tmp_path / "candidates.parquet", Path)
