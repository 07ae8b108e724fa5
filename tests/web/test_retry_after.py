"""F7: Retry-After and 429 count for the whole host, for nobody else, and not for ever."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from webdistill.web import client as client_module
from webdistill.web.client import Client
from webdistill.web.hosts import retry_after

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

pytestmark = pytest.mark.usefixtures("loopback")
EARLY = 0.1  # seconds that an arrival may seem early because the one before it was logged late


def starts(server: Server, host: str = "") -> list[float]:
    return sorted(r["time"] for r in server.requests if r["headers"]["host"].startswith(host))


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "value", ["1", "date+2"]
)  # a date has whole seconds: at least 1 s is left of 2
def test_retry_after_is_obeyed_by_the_whole_host_and_nobody_else(
    server: Server, ask: Ask, status: int, value: str
) -> None:
    async def main() -> list[str]:
        client = ask.client(retries=1)
        await client.open()

        async def get(url: str, after: float = 0.0) -> str:
            await asyncio.sleep(after)
            async with client.get(url) as reply:
                return reply.status

        held = server.at("held.test")
        urls = [(f"{held}/busy/{status}/1/{value}", 0.0)]
        urls += [(f"{held}/ok/{n}", 0.3) for n in range(3)]
        urls += [(server.at("other.test") + f"/ok/{n}", 0.3) for n in range(3)]
        found = await asyncio.gather(*(get(*one) for one in urls))
        await client.close()
        return found

    assert asyncio.run(main()) == ["ok"] * 7
    first, *later = starts(server, "held.test")
    assert min(later) - first >= 1.0 - EARLY
    assert max(starts(server, "other.test")) < min(later)


def test_who_is_asked_to_wait_longer_than_the_deadline_does_not_wait(
    server: Server, ask: Ask
) -> None:
    started = time.monotonic()
    for path in ("/busy/429/9/60", "/busy/503/9/date+60", "/busy/429/9/999999999"):
        (reply,) = ask(server.url + path, retries=5, timeout=20.0)
        assert (reply.status, reply.http_status) == ("rate_limited", int(path[6:9]))
    assert time.monotonic() - started < 15
    assert sum(server.asked.values()) == 3


def test_urls_of_a_host_that_wants_peace_for_long_end_at_once(server: Server, ask: Ask) -> None:
    held = server.at("held.test")
    urls = [f"{held}/busy/429/1/60", *(f"{held}/ok/{n}" for n in range(50))]
    found = ask(*urls, in_turn=True, timeout=5.0, retries=2)
    assert {(r.status, r.http_status) for r in found[1:]} == {("rate_limited", 0)}
    assert sum(server.asked.values()) == 1


def test_a_host_that_never_answers_but_with_429_gets_no_endless_patience(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pause is short; after `timeout` seconds of them without one answer, the queue is sent home."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.2)
    started = time.monotonic()
    urls = [f"{server.url}/busy/429/99/?{n}" for n in range(200)]
    assert set(ask.statuses(*urls, per_host=1, timeout=1.0, retries=2)) == {"rate_limited"}
    assert sum(server.asked.values()) < 20
    assert time.monotonic() - started < 20, "200 URLs with a pause each would take 40 s"


def test_a_host_that_answers_in_between_keeps_our_patience(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pauses of 0.3 s are more than the deadline of 1 s, but each one ends in an answer."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.3)

    async def get(client: Client, url: str, after: float) -> str:
        await asyncio.sleep(after)
        async with client.get(url) as reply:
            return reply.status

    async def main() -> list[str]:
        client = ask.client(timeout=1.0, retries=1)
        await client.open()
        found = []
        for n in range(5):  # the second one comes while the host is held
            pair = (
                get(client, f"{server.url}/busy/429/1/?{n}", 0.0),
                get(client, f"{server.url}/ok", 0.1),
            )
            found += await asyncio.gather(*pair)
        await client.close()
        return found

    assert asyncio.run(main()) == ["ok"] * 10


def test_429_without_a_time_makes_the_host_wait_a_little(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.5)
    urls = [server.url + path for path in ("/busy/429/1/", "/ok/1")]
    assert ask.statuses(*urls, in_turn=True) == ["rate_limited", "ok"]
    assert gaps(starts(server))[0] >= 0.5 - EARLY


def test_503_without_a_time_is_that_urls_trouble_alone(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 8.0)
    urls = [server.url + path for path in ("/status/503", "/ok/1")]
    assert ask.statuses(*urls, in_turn=True) == ["http_error", "ok"]
    assert gaps(starts(server))[0] < 6


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("-1", 0),
        ("1.5", 0),
        ("", 0),
        ("soon", 0),
        ("9" * 5000, 0),
        ("٣", 0),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    now = datetime.now(UTC)
    assert 58 < retry_after(format_datetime(now + timedelta(seconds=60), usegmt=True)) <= 60
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True)) == 0
    assert retry_after("Sun, 06 Nov 1994 08:49:37 -0000") == 0
    assert retry_after("Fri, 31 Dec 99999 23:59:59 GMT") == 0
    assert retry_after("Mon, 01 Jan 99999999999999999999 00:00:00 GMT") == 0
