"""A request on which a quick host keeps silent costs its slot for a moment, not for the whole deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from webdistill.web import client as client_module
from webdistill.web import hosts as hosts_module

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

pytestmark = pytest.mark.usefixtures("loopback")
QUICK = [f"/ok/{n}" for n in range(hosts_module.HEARD)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "SILENCE", 0.4)
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)


def asked(server: Server, ask: Ask, *paths: str, **settings: object) -> list[str]:
    """Statuses of what comes after the host has shown that it is quick."""
    urls = [server.url + path for path in (*QUICK, *paths)]
    return [reply.status for reply in ask(*urls, in_turn=True, **settings)][len(QUICK) :]


def test_a_silent_request_is_given_up_and_made_once_more(server: Server, ask: Ask) -> None:
    started = time.monotonic()
    assert asked(server, ask, "/shy/1", timeout=30.0, retries=2) == ["ok"]
    assert 0.4 <= time.monotonic() - started < 10
    assert server.asked["/shy/1"] == 2


def test_the_last_try_has_the_whole_deadline(server: Server, ask: Ask) -> None:
    assert asked(server, ask, "/pause/1.2", timeout=5.0, retries=0) == ["ok"]
    assert server.asked["/pause/1.2"] == 1
    assert asked(server, ask, "/pause/1.3", timeout=5.0, retries=1) == ["ok"]
    assert server.asked["/pause/1.3"] == 2


def test_a_host_that_is_slow_by_nature_is_waited_for(server: Server, ask: Ask) -> None:
    slow = [f"/pause/0.{n}" for n in (20, 21)]
    found = asked(server, ask, *slow, "/pause/1.1", timeout=5.0, retries=1)
    assert found == ["ok"] * 3
    assert server.asked["/pause/1.1"] == 1, "1.6 s are eight times what it took before"


def test_where_no_second_chance_is_answered_there_are_no_more(server: Server, ask: Ask) -> None:
    hang = [server.url + f"/silent/{n}" for n in range(60)]
    good = [server.url + f"/ok/{n}" for n in range(100, 200)]
    urls = [server.url + path for path in QUICK]
    mixed = [url for n in range(100) for url in (*good[n : n + 1], *hang[n : n + 1])]
    started = time.monotonic()
    found = ask(*urls, *mixed, timeout=1.5, retries=2, per_host=16)
    took = time.monotonic() - started
    statuses = dict(zip([*urls, *mixed], [reply.status for reply in found], strict=True))
    assert {statuses[url] for url in hang} == {"timeout"}
    assert {statuses[url] for url in (*urls, *good)} == {"ok"}
    again = sum(server.asked[f"/silent/{n}"] for n in range(60)) - 60
    few = 16 // hosts_module.SECOND_CHANCES
    assert client_module.DEAF <= again <= client_module.DEAF + few, "then the host counts as deaf"
    assert took < 12, "60 deadlines of 1.5 s, 16 at a time, and those of the good ones"
