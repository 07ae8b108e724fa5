"""Turns of hosts, and what is said of failures while fetch runs and afterwards."""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections import Counter

import pytest

from stages.fetch.outcomes import Outcome
from stages.fetch.schedule import Turns, host_of
from stages.fetch.summary import Failures, Tally, table
from webdistill.harness.progress import progress


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example/x", "a.example"),
        ("https://A.example:8443/x/y?z#t", "a.example"),
        ("http://me:pw@a.example:80", "a.example"),
        ("http://[2001:db8::1]:80/x", "2001:db8::1"),
        ("http://a.example?x@b.example/", "a.example"),
        ("http:///x", ""),
        ("nothing", ""),
        ("/a/b/c", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


def test_hosts_take_turns_and_each_keeps_its_order() -> None:
    urls = [f"http://{host}.example/{n}" for host in "aaaaaabbc" for n in (0,)]
    turns = Turns(urls, most=2)
    first = [turns.take() for _ in range(6)]
    assert first == [0, 6, 8, 1, 7, None], "a b c a b, and nobody has more than two under way"
    turns.done(0)
    assert [turns.take(), turns.take()] == [2, None]
    for at in (6, 7, 8):
        turns.done(at)
    assert turns.take() is None, "only a is left, and busy"
    turns.done(1)
    turns.done(2)
    assert [turns.take(), turns.take(), turns.take()] == [3, 4, None]


def test_every_position_is_handed_out_once_within_the_limits() -> None:
    urls = [f"http://{n % 7 if n % 3 else 0}.example/" for n in range(200)]
    turns, under_way, done = Turns(urls, most=3), Counter[str](), []

    async def work(at: int) -> None:
        under_way[urls[at]] += 1
        assert under_way[urls[at]] <= 3
        assert under_way.total() <= 10
        await asyncio.sleep(0.001 * (at % 3))
        under_way[urls[at]] -= 1
        done.append(at)

    asyncio.run(turns.run(work, window=10))
    assert sorted(done) == list(range(200))
    asyncio.run(Turns([], most=1).run(work, window=1))


def test_who_is_aside_leaves_its_place_to_others() -> None:
    """One place, and a window of one: the first would wait for the last for ever, were it not aside."""
    turns, done = Turns(["http://a.example/"] * 5, most=1), list[int]()

    async def work(at: int) -> None:
        if at == 0:
            with turns.aside(at):
                await through.wait()
        elif at == 4:
            through.set()
        done.append(at)

    async def main() -> None:
        await asyncio.wait_for(turns.run(work, window=1), 10)

    through = asyncio.Event()
    asyncio.run(main())
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert done[-2:] in ([4, 0], [0, 4])


def test_limits_hold_for_new_ones_while_others_come_from_aside() -> None:
    urls = [f"http://{n % 2}.example/" for n in range(60)]
    turns, new, back = Turns(urls, most=2), Counter[str](), 0
    done = list[int]()

    async def work(at: int) -> None:
        nonlocal back
        new[urls[at]] += 1
        assert new[urls[at]] <= 2
        assert back >= 3 or new.total() <= 3 - back
        await asyncio.sleep(0.001)
        new[urls[at]] -= 1
        with turns.aside(at):
            await asyncio.sleep(0.002)
        back += 1
        await asyncio.sleep(0.001)
        back -= 1
        done.append(at)

    asyncio.run(turns.run(work, window=3))
    assert sorted(done) == list(range(60))
    assert turns.take() is None


def test_the_note_tells_speed_share_and_the_commonest_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tally = Tally()
    causes = [("http_error", 403)] * 5 + [("timeout", 0)] * 4 + [("http_error", 500)] * 3
    outcomes = [Outcome(status, http_status=code) for status, code in causes]
    tally.add([*outcomes, Outcome("dns_error"), *[Outcome("ok", size=2**20)] * 12])
    now = 102.0
    assert tally.note() == "6.0 MiB/s, 48% ok, http_error 403 5, timeout 4, http_error 500 3"
    assert (tally.news(), tally.news()) == (25, 0)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    for _ in progress([25], total=25, unit="img", label="fetch", size=int, note=tally.note):
        now += 20
    assert shown.getvalue().startswith("fetch: 25/25 img")
    assert "; 0.5 MiB/s, 48% ok, http_error 403 5" in shown.getvalue()


def test_the_table_names_causes_and_their_worst_hosts() -> None:
    found = [Failures("timeout", f"{n}.example", 10 - n) for n in range(5)]
    found += [Failures("robots", "a\x1b[31m.example", 100)]
    found += [Failures(f"http_error {n}", "b.example", 1) for n in range(400, 408)]
    lines = [" ".join(line.split()) for line in table(found)]
    assert lines[0] == "robots 100 a?[31m.example 100"
    assert lines[1] == "timeout 40 0.example 10, 1.example 9, 2.example 8, 2 more"
    assert lines[2] == "http_error 400 1 b.example 1"
    assert lines[-1] == "other causes 2"
    assert len(lines) == 9
    assert list(table([])) == []
