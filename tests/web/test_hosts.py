"""F7: at most n requests to a host at once, a pause between their starts, bounded memory."""

from __future__ import annotations

import asyncio
import resource
import time
from typing import TYPE_CHECKING

import pytest

from webdistill.web import client as client_module
from webdistill.web import hosts as hosts_module
from webdistill.web.client import Client
from webdistill.web.hosts import Hosts, Turn

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server, Starts

pytestmark = pytest.mark.usefixtures("loopback")


def test_few_at_a_time_per_host(server: Server, ask: Ask) -> None:
    hosts = ["a.test", "b.test"]
    urls = [server.at(host) + "/pause/0.15" for host in hosts for _ in range(12)]
    assert set(ask.statuses(*urls, per_host=3, timeout=5.0)) == {"ok"}
    busy = {name.partition(":")[0]: most for name, most in server.most_busy.items() if name}
    assert busy == {"a.test": 3, "b.test": 3}


def test_waiting_for_a_slot_does_not_count_against_the_deadline(server: Server, ask: Ask) -> None:
    started = time.monotonic()
    found = ask.statuses(*[server.url + "/pause/0.4"] * 4, per_host=1, timeout=1.2)
    assert found == ["ok"] * 4
    assert time.monotonic() - started >= 1.6


def test_starts_at_one_host_keep_their_distance(server: Server, ask: Ask, starts: Starts) -> None:
    urls = [server.at(host) + f"/ok/{n}" for n in range(5) for host in ("a.test", "b.test")]
    assert ask.statuses(*urls, delay=0.4, timeout=1.4) == ["ok"] * 10
    for host in ("a.test", "b.test"):
        assert len(starts.times[host]) == 5
        assert starts.keep(host, 0.4, server), starts.times
    assert starts.times["b.test"][1] < starts.times["a.test"][-1], "no host waits for another"


def test_who_waited_for_a_connection_keeps_the_distance_as_well(
    server: Server, ask: Ask, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "CONNECTIONS", 1)
    urls = [
        server.at("a.test") + "/pause/0.3",
        *(server.at("b.test") + f"/ok/{n}" for n in range(3)),
    ]
    assert ask.statuses(*urls, delay=0.3) == ["ok"] * 4
    assert starts.keep("b.test", 0.3, server), starts.times


def test_robots_redirects_and_tries_keep_the_distance_too(
    server: Server, ask: Ask, starts: Starts
) -> None:
    urls = [server.url + "/hops/1", server.url + "/flaky/1", server.url + "/hang-up"]
    found = ask.statuses(*urls, delay=0.2, retries=1, robots=True)
    assert found == ["ok", "ok", "connection_error"]
    assert len(server.requests) == 4 + 3 + 2 + 2, "four about the host, then those for each URL"
    assert starts.keep("127.0.0.1", 0.2, server), starts.times


def test_no_more_connections_than_there_are_at_once(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "CONNECTIONS", 5)
    urls = [server.at(f"h{n}.test") + "/pause/0.3" for n in range(20)]
    assert set(ask.statuses(*urls)) == {"ok"}
    assert server.most_busy[""] == 5


def test_a_turn_is_taken_until_the_body_is_done_with(server: Server, ask: Ask) -> None:
    async def main() -> None:
        client = ask.client(per_host=1)
        await client.open()
        async with client.get(server.url + "/ok/1") as reply:
            assert reply.status == "ok"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3), client.get(server.url + "/ok/2"):
                    raise AssertionError("two bodies at once")
        async with client.get(server.url + "/ok/3") as reply:
            assert reply.status == "ok", "who gave up left nothing taken"
        await client.close()

    asyncio.run(main())
    assert server.asked == {"/ok/1": 1, "/ok/3": 1}


def test_large_bodies_wait_for_each_other(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bodies above SMALL while one may be in memory: the second one is read when the first is done with."""
    monkeypatch.setattr(hosts_module, "LARGE_BODIES", 1)
    monkeypatch.setattr("webdistill.web.answers.SMALL", 100)
    events: list[str] = []

    async def get(client: Client, url: str) -> None:
        async with client.get(url) as reply:
            assert reply.status == "ok"
            events.append("in")
            await asyncio.sleep(0.5)
            events.append("out")

    async def main() -> None:
        client = ask.client(timeout=1.2)  # the wait of three times 0.5 s does not count
        await client.open()
        await asyncio.gather(*(get(client, f"{server.url}/ok/{n}") for n in range(4)))
        await client.close()

    asyncio.run(main())
    assert events == ["in", "out"] * 4


@pytest.mark.parametrize("end", ["ok", "noise", "silent", "endless", "loop", "busy/429/9/60"])
def test_whatever_happens_everything_is_given_back(server: Server, ask: Ask, end: str) -> None:
    async def main() -> None:
        client = ask.client(timeout=0.3, robots=True)
        await client.open()
        tasks = [asyncio.create_task(one(client)) for _ in range(6)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hosts = client._hosts
        assert hosts.connections._value == hosts_module.CONNECTIONS
        assert hosts.large._value == hosts_module.LARGE_BODIES
        (host,) = hosts._table.values()
        assert (host.users, host.slots._value, host.gate.locked()) == (0, 64, False)
        await client.close()

    async def one(client: Client) -> None:
        async with client.get(f"{server.url}/{end}"):
            pass

    asyncio.run(main())


def test_idle_hosts_are_forgotten_and_busy_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "HOSTS", 100)

    async def main() -> None:
        hosts = Hosts(1, 1.0)
        busy = [Turn(hosts) for _ in range(3)]
        for n, turn in enumerate(busy):
            await turn.enter(f"busy{n}", 0.0)
        kept = [hosts._table[f"busy{n}"] for n in range(3)]
        for n in range(5_000):
            turn = Turn(hosts)
            await turn.enter(f"h{n}", 0.0)
            turn.leave()
            assert len(hosts) <= 101
        assert [hosts._table[f"busy{n}"] for n in range(3)] == kept
        assert "h4999" in hosts._table
        turn = Turn(hosts)
        await turn.enter("tired", 0.0)
        turn.hold(3600.0)
        turn.leave()
        for n in range(200):
            turn = Turn(hosts)
            await turn.enter(f"g{n}", 0.0)
            turn.leave()
        assert hosts._table["tired"].held_until > time.monotonic() + 3000  # asked for peace

    asyncio.run(main())


def test_with_many_hosts_a_connection_is_kept_only_for_a_request_in_sight(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FEW_HOSTS", 3)
    alone = [server.at(f"h{n}.test") + "/ok" for n in range(8)]
    several = [server.at("more.test") + f"/ok/{n}" for n in range(3)]
    ask(*alone, *several, per_host=1)  # all hosts stay in the table
    closing = [
        r["headers"]["host"].partition(".")[0] for r in server.requests if r["headers"].get("connection") == "close"
    ]  # fmt: skip
    assert closing[-1] == "more", "nobody comes after the last of them"
    assert closing.count("more") < 3
    assert {f"h{n}" for n in range(4, 8)} <= set(closing)
    assert "h0" not in closing


def test_robots_txt_and_what_it_allows_share_a_connection(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FEW_HOSTS", 0)
    ask(*(server.at(f"h{n}.test") + "/ok" for n in range(4)), robots=True)
    assert len(server.requests) == 20, "robots.txt, tdmrep.json, two ai.txt and the image of each"
    assert server.connections == 4


def test_a_low_limit_of_open_files_is_raised(server: Server, ask: Ask) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        assert set(ask.statuses(*[server.url + "/pause/0.5"] * 200, per_host=200)) == {"ok"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_are_used_again(server: Server, ask: Ask) -> None:
    ask(*(f"{server.url}/ok/{n}" for n in range(50)), per_host=4)
    assert server.connections == 4
    assert len(server.requests) == 50
