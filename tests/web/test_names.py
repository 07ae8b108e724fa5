"""F2: a name is looked up once and connected to at the address that was judged; look-ups hold nobody up."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from webdistill.web import names
from webdistill.web.addresses import is_public
from webdistill.web.names import Names, SystemNames

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server


@pytest.fixture
def public_127_0_0_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 plays a public address, so that nothing leaves this machine; 127.0.0.1 stays what it is."""
    public = ip_address("127.0.0.2")
    monkeypatch.setattr(
        "webdistill.web.intranet.is_public", lambda one: one == public or is_public(one)
    )


@pytest.mark.usefixtures("no_loopback", "public_127_0_0_2")
def test_a_second_answer_of_the_dns_changes_nothing(server: Server, ask: Ask) -> None:
    ask.names.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    at = server.at("rebind.example")
    assert ask.statuses(*(f"{at}/ok/{n}" for n in range(4))) == ["ok"] * 4
    assert ask.names.asked == ["rebind.example"]
    assert {request["to"] for request in server.requests} == {"127.0.0.2"}


@pytest.mark.usefixtures("no_loopback", "public_127_0_0_2")
def test_a_name_that_moves_inward_later_is_refused(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "KEPT", 0.0)  # each connection looks the name up anew
    ask.names.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    at = server.at("rebind.example")
    assert ask.statuses(f"{at}/last", f"{at}/ok", in_turn=True) == ["ok", "not_public"]
    assert ask.names.asked == ["rebind.example"] * 2
    assert {request["to"] for request in server.requests} == {"127.0.0.2"}


@pytest.mark.usefixtures("no_loopback", "public_127_0_0_2")
def test_of_several_addresses_only_public_ones_are_tried(server: Server, ask: Ask) -> None:
    ask.names.answers["both.example"] = [["127.0.0.1", "10.0.0.1", "::1", "127.0.0.2"]]
    ask.names.answers["none.example"] = [["127.0.0.1", "10.0.0.1", "::1"]]
    urls = [server.at("both.example") + "/ok", server.at("none.example") + "/ok"]
    assert ask.statuses(*urls) == ["ok", "not_public"]
    assert [request["to"] for request in server.requests] == ["127.0.0.2"]


def test_a_name_that_does_not_exist_is_asked_once_and_not_retried(ask: Ask) -> None:
    urls = [f"http://nowhere.example/{n}" for n in range(5)]
    assert ask.statuses(*urls, retries=3) == ["dns_error"] * 5
    assert ask.names.asked == ["nowhere.example"]
    assert ask.names.closed


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(main())


def test_answers_and_failures_are_remembered_for_their_time(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("webdistill.web.memo.monotonic", lambda: now[0])
    ask.names.answers["a.test"] = [["192.0.2.1"], ["192.0.2.2"]]

    async def look_up(memory: Names, name: str) -> str:
        try:
            return (await memory.resolve(name, 80))[0]["host"]
        except OSError:
            return "failed"

    async def main() -> None:
        memory = Names(ask.names)
        assert await look_up(memory, "a.test") == "192.0.2.1"
        assert await look_up(memory, "gone.example") == "failed"
        now[0] += names.KEPT_FAILURE - 1
        assert await look_up(memory, "gone.example") == "failed"
        assert ask.names.asked == ["a.test", "gone.example"]
        now[0] += 2
        assert await look_up(memory, "gone.example") == "failed"
        assert await look_up(memory, "a.test") == "192.0.2.1"
        assert ask.names.asked == ["a.test", "gone.example", "gone.example"]
        now[0] += names.KEPT
        assert await look_up(memory, "a.test") == "192.0.2.2"
        await memory.close()

    run(main())


def test_a_port_is_not_part_of_what_is_remembered(ask: Ask) -> None:
    async def main() -> list[int]:
        memory = Names(ask.names)
        found = [(await memory.resolve("a.test", port))[0]["port"] for port in (80, 8080)]
        await memory.close()
        return found

    assert run(main()) == [80, 8080]
    assert ask.names.asked == ["a.test"]


def test_slow_names_do_not_hold_up_the_others(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(40)

    def look_up(*_: object, **__: object) -> None:
        together.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ask.names = SystemNames()
    assert set(ask.statuses(*(f"http://{n}.example.org/" for n in range(40)))) == {"dns_error"}
    assert not together.broken


def test_who_stops_waiting_does_not_stop_the_look_up(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that takes longer than one URL's deadline is there for the next URL."""
    go = threading.Event()
    calls = []

    def look_up(host: str, *_: object) -> None:
        calls.append(host)
        go.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ask.names = SystemNames()

    async def main() -> list[str]:
        client = ask.client(timeout=0.5)
        await client.open()
        found = []
        for _ in range(2):
            async with client.get("http://slow.example/") as reply:
                found.append(reply.status)
            go.set()
        await client.close()
        return found

    assert run(main()) == ["timeout", "dns_error"]
    assert calls == ["slow.example"]
