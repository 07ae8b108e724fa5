"""F6: robots.txt is asked for once per origin and obeyed as RFC 9309 says."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from yarl import URL

from webdistill.web import robots as robots_module
from webdistill.web.client import Client
from webdistill.web.robots import LONGEST, LONGEST_DELAY, parse
from webdistill.web.target import parse_url
from webdistill.web.tdmrep import PLACE

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server, Starts

pytestmark = pytest.mark.usefixtures("loopback")


def verdicts(server: Server, ask: Ask, *urls: str, **settings: object) -> list[tuple[str, str]]:
    return [(r.status, r.robots) for r in ask(*urls, robots=True, **settings)]


@pytest.mark.parametrize(
    "host", ["none", "empty", "page", "circle", "status-401", "status-403", "status-410"]
)
def test_without_usable_rules_all_is_allowed(server: Server, ask: Ask, host: str) -> None:
    urls = [server.at(f"{host}.test") + f"/ok/{n}" for n in range(3)]
    assert verdicts(server, ask, *urls) == [("ok", "allowed")] * 3
    assert server.asked["/robots.txt"] == (6 if host == "circle" else 1)


@pytest.mark.parametrize("host", ["deny", "moved", "bom", "packed", "packed-twice"])
def test_what_is_disallowed_is_not_asked_for(server: Server, ask: Ask, host: str) -> None:
    (reply,) = ask(server.at(f"{host}.test") + "/ok", robots=True)
    assert (reply.status, reply.robots, reply.http_status) == ("robots", "disallowed", 0)
    assert server.asked["/ok"] == 0


def test_rules_for_us_win_over_rules_for_all_and_the_longest_rule_counts(
    server: Server, ask: Ask
) -> None:
    at = server.at("others.test")
    found = verdicts(server, ask, f"{at}/ok", f"{at}/ok/secret/1", f"{at}/status/200")
    assert found == [("ok", "allowed"), ("robots", "disallowed"), ("ok", "allowed")]


@pytest.mark.parametrize("host", ["version", "listed"])
def test_a_name_with_a_version_or_among_others_is_ours(server: Server, ask: Ask, host: str) -> None:
    at = server.at(f"{host}.test")
    found = verdicts(server, ask, f"{at}/ok/1", f"{at}/ok/2")
    assert found == [("robots", "disallowed"), ("ok", "allowed")]


def test_bytes_that_are_no_text_spoil_only_their_own_line(server: Server, ask: Ask) -> None:
    at = server.at("latin.test")
    found = verdicts(server, ask, f"{at}/ok/1", f"{at}/ok/2")
    assert found == [("ok", "allowed"), ("robots", "disallowed")]


@pytest.mark.parametrize(
    "host",
    [
        "joined",
        "nul",
        "utf16",
        "utf16le",
        "utf16be",
        "utf16be-bare",
        "utf16-cut",
        "utf32",
        "utf32be",
    ],
)
def test_rules_in_another_encoding_are_rules(server: Server, ask: Ask, host: str) -> None:
    at = server.at(f"{host}.test")
    found = verdicts(server, ask, f"{at}/ok/1", f"{at}/ok/2")
    assert found == [("robots", "disallowed"), ("ok", "allowed")]


def test_only_the_first_500_kib_count(server: Server, ask: Ask) -> None:
    for host in ("huge", "endless"):
        at = server.at(f"{host}.test")
        found = verdicts(server, ask, f"{at}/ok/1", f"{at}/ok/2")
        assert found == [("robots", "disallowed"), ("ok", "allowed")]


def test_a_line_that_the_cap_cuts_through_is_no_rule(server: Server, ask: Ask) -> None:
    """ "Disallow: /ok/22" must not become "Disallow: /"."""
    at = server.at("cut.test")
    found = verdicts(server, ask, f"{at}/ok/1", f"{at}/ok/2", f"{at}/ok/22")
    assert found == [("robots", "disallowed"), ("ok", "allowed"), ("ok", "allowed")]
    assert LONGEST == 500 * 1024


def test_robots_txt_is_followed_over_five_redirects(server: Server, ask: Ask) -> None:
    assert verdicts(server, ask, server.at("far.test") + "/ok") == [("robots", "disallowed")]


@pytest.mark.parametrize(
    ("host", "status", "http_status"),
    [
        ("status-500", "robots", 500), ("status-503", "robots", 503), ("status-429", "rate_limited", 429),
        ("hung", "timeout", 0), ("dropping", "connection_error", 0), ("inward", "not_public", 0),
        ("packed-in-br", "connection_error", 0),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_had_forbid_everything(
    server: Server, ask: Ask, host: str, status: str, http_status: int
) -> None:
    urls = [server.at(f"{host}.test") + f"/ok/{n}" for n in range(3)]
    found = ask(*urls, robots=True, timeout=0.6 if host == "hung" else 10.0)
    expected = (status, http_status, "unreachable")
    assert [(r.status, r.http_status, r.robots) for r in found] == [expected] * 3
    assert all(r.detail.startswith("robots.txt") for r in found)
    assert dict(server.asked) == {"/robots.txt": 1}


def test_a_passing_failure_of_robots_txt_is_tried_again_but_not_per_url(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webdistill.web.client.FIRST_PAUSE", 0.01)
    urls = [server.at("status-500.test") + f"/ok/{n}" for n in range(5)]
    ask(*urls, robots=True, retries=2)
    assert dict(server.asked) == {"/robots.txt": 3}


def test_waiting_for_robots_txt_does_not_count_against_the_deadline(
    server: Server, ask: Ask
) -> None:
    """The server takes 1 s for robots.txt and 0.9 s for the image: both within 1.6 s, the sum is not."""
    assert verdicts(server, ask, server.at("late.test") + "/pause/0.9", timeout=1.6) == [
        ("ok", "allowed")
    ]


@pytest.mark.parametrize(
    ("host", "expected"), [("hung", ("timeout", "unreachable")), ("mute", ("ok", "allowed"))]
)
def test_what_a_host_says_of_itself_is_waited_for_no_longer_than_for_a_url(
    server: Server, ask: Ask, host: str, expected: tuple[str, str]
) -> None:
    """One keeps silent for a minute when asked for robots.txt, the other for tdmrep.json."""
    started = time.monotonic()
    urls = [server.at(f"{host}.test") + f"/ok/{n}" for n in range(3)]
    assert verdicts(server, ask, *urls, timeout=1.0, retries=5) == [expected] * 3
    assert 1.0 <= time.monotonic() - started < 10
    asked = server.asked
    assert asked["/robots.txt"] == 1
    assert asked[PLACE] == (1 if host == "mute" else 0)


def test_every_origin_has_its_own_rules(server: Server, ask: Ask) -> None:
    hosts = ["deny.test", "none.test", "DENY.test", "deny.test"]
    found = verdicts(server, ask, *(server.at(host) + "/ok" for host in hosts))
    assert [verdict for _, verdict in found] == [
        "disallowed",
        "allowed",
        "disallowed",
        "disallowed",
    ]
    assert server.asked["/robots.txt"] == 2


def test_where_a_redirect_leads_is_asked_first_too(server: Server, ask: Ask) -> None:
    target = quote(server.at("deny.test") + "/ok", safe="")
    assert verdicts(server, ask, server.at("none.test") + f"/to/{target}") == [
        ("robots", "disallowed")
    ]
    assert server.asked["/ok"] == 0


def test_switched_off_nobody_is_asked(server: Server, ask: Ask) -> None:
    (reply,) = ask(server.at("deny.test") + "/ok", robots=False)
    assert (reply.status, reply.robots) == ("ok", "")
    assert server.asked["/robots.txt"] == 0


def test_rules_and_failures_are_asked_for_again_after_their_time(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host, name in (("none", "KEPT"), ("status-500", "KEPT_FAILURE")):
        monkeypatch.setattr(robots_module, name, 0.0)
        ask(*(server.at(f"{host}.test") + f"/ok/{n}" for n in range(2)), robots=True, in_turn=True)
    assert server.asked["/robots.txt"] == 4


def test_crawl_delay_is_the_hosts_pace(server: Server, ask: Ask, starts: Starts) -> None:
    found = verdicts(server, ask, *(server.at("slowly.test") + f"/ok/{n}" for n in range(4)))
    assert found == [("ok", "allowed")] * 4
    assert len(server.requests) == 8, "robots.txt, tdmrep.json and both places of ai.txt, too"
    assert starts.keep("slowly.test", 0.3, server, first=1), "from the second one on"


def test_crawl_delay_has_a_cap() -> None:
    assert parse("User-agent: *\nCrawl-delay: 86400").delay == LONGEST_DELAY
    assert parse("User-agent: *\nCrawl-delay: 2.5").delay == 2.5
    assert parse("User-agent: other\nCrawl-delay: 2.5").delay == 0.0
    assert parse("User-agent: *\nCrawl-delay: nonsense").delay == 0.0
    assert parse("User-agent: *\nCrawl-delay: -1").delay == 0.0


def test_no_text_whatever_breaks_the_parser() -> None:
    rng = random.Random(0)
    words = [
        "User-agent:", "*", "Disallow:", "Allow:", "/", "\n", "\r", "webdistill", "%", "%zz", "[", "]", "http://[",
        "\0", "$", "#", ":", "é", "\ufeff", "\u2028", "Crawl-delay:", "inf", "1e999", "Request-rate:", "1/0", "?", "//",
    ]  # fmt: skip
    for _ in range(500):
        rules = parse("".join(rng.choices(words, k=rng.randrange(60))))
        assert 0 <= rules.delay <= LONGEST_DELAY
        for path in ("", "/", "/a%zz[", "//[x", "/robots.txt", "/?q=http://[", "/é$*"):
            refusal = rules.refusal(URL(f"http://example.org{path}"))
            assert refusal is None or refusal.status == "robots"


def test_a_long_robots_txt_does_not_stop_the_others(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While half a megabyte of rules is read, another host's requests are answered."""
    others_done = threading.Event()
    seen: list[bool] = []

    def slow(text: str) -> robots_module.Rules:
        seen.append(others_done.wait(10))
        return parse(text)

    async def get(client: Client, url: str) -> str:
        async with client.get(url) as reply:
            return reply.status

    async def main() -> None:
        client = ask.client(robots=True)
        await client.open()
        long = asyncio.create_task(get(client, server.at("huge.test") + "/ok/2"))
        await asyncio.sleep(0.1)
        assert await get(client, server.at("none.test") + "/ok") == "ok"
        others_done.set()
        assert await long == "ok"
        await client.close()

    monkeypatch.setattr(robots_module, "parse", slow)
    asyncio.run(main())
    assert seen == [True]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/secret", "/%73ecret"), ("/a(b)", "/a%28b%29"), ("/a%28b%29", "/a(b)"), ("/a,b", "/a%2cb"),
        ("/*.jpg$", "/a%2Ejpg"),
        ("/secret", "/x/%2e%2E/secret"), ("/secret", "/./secret"), ("/é", "/%C3%A9"), ("/%e9", "/%E9"),
        ("/q?a=(", "/q?a=%28"),
    ],
)  # fmt: skip
def test_no_escape_passes_a_rule_by(rule: str, path: str) -> None:
    """Escapes of an address stay when it is asked for, so the rules must see through them."""
    url = parse_url(f"http://a.example{path}")
    assert url is not None
    assert parse(f"User-agent: *\nDisallow: {rule}").disallowed(url)
    assert parse(f"User-agent: *\nContent-Usage: {rule} train-ai=n").refusal(url) is not None
