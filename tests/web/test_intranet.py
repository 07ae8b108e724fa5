"""F1: a host of one's own network is asked only where the environment names it, and nothing else is opened by that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.web.test_addresses import NONSENSE, REFUSED, SPELLINGS
from webdistill.core.errors import UserError
from webdistill.web.intranet import HINT, OWN, VARIABLE, allowed_hosts
from webdistill.web.normalise import normalise_url

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

pytestmark = pytest.mark.usefixtures("no_loopback")


@pytest.mark.parametrize("value", [None, "", " , "])
def test_it_is_off_by_default_and_the_refusal_names_it(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    (reply,) = ask(server.url + "/ok")
    assert (reply.status, reply.detail) == ("not_public", HINT)
    assert "WEBDISTILL_ALLOW_HOSTS" in HINT
    assert server.connections == 0


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.0.0.0/8", "127.0.0.1"), ("10.0.0.0/8 127.0.0.1/32", "a.test"),
        ("localhost", "localhost"), ("LOCALHOST.", "localhost"), ("a.test", "a.test"), ("A.Test", "a.test"),
        ("*.test", "b.a.test"), ("x.example; a.test\n", "a.test."), ("a.test,::1", "a.test"),
        ("bücher.test", "bücher.test"), ("straße.test", "xn--strae-oqa.test"), ("[::1]/128 127.0.0.1", "127.0.0.1"),
        ("127.0.0.0/255.0.0.0", "127.0.0.1"), ("127.0.0.0/8", "[::ffff:127.0.0.1]"),
    ],
)  # fmt: skip
def test_names_and_networks_and_loopback_too(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, value: str, host: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    ask.names.answers |= {name: [["127.0.0.1"]] for name in ("localhost", "a.test.")}
    for robots in (False, True):
        (reply,) = ask(server.at(host) + "/ok", robots=robots)
        assert (reply.status, reply.detail) == ("ok", OWN)


@pytest.mark.parametrize(
    "value",
    [
        "a.test", "*.a.test", "10.0.0.0/8", "127.0.0.2", "127.0.0.2/32", "::1", "fd00::/8, test, est", "192.168.0.0/16",
    ],
)  # fmt: skip
def test_nothing_else_is_opened(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Not the same address under another name, either: that is how a name of an attacker would come in."""
    monkeypatch.setenv(VARIABLE, value)
    urls = [
        server.at(host) + "/ok" for host in ("b.test", "127.0.0.1", "xa.test", "a.test.example")
    ]
    ask.names.answers["a.test.example"] = [["127.0.0.1"]]
    assert ask.statuses(*urls) == ["not_public"] * 4
    mapped = f"http://[::ffff:127.0.0.1]:{server.ports['plain']}/ok"
    assert ask.statuses(mapped) == ["not_public"]
    assert server.connections == 0


def test_a_name_opens_no_connection_for_another(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a.test")
    urls = [server.at(host) + "/ok" for host in ("a.test", "b.test") * 20]
    for in_turn in (True, False):
        found = ask(*urls, in_turn=in_turn)
        assert [reply.status for reply in found] == ["ok", "not_public"] * 20
    leads = [
        f"{server.at('a.test')}/to/{quote(server.at(host) + '/ok', safe='')}"
        for host in ("a.test", "b.test")
    ]
    assert ask.statuses(*leads, in_turn=True) == ["ok", "not_public"]


def test_a_name_that_is_allowed_leads_to_no_credentials_of_a_cloud(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a.test, *.example")
    inside = [
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
    ]
    ask.names.answers |= {f"h{n}.example": [[address]] for n, address in enumerate(inside)}
    urls = [f"http://h{n}.example:9/" for n in range(len(inside))]
    assert ask.statuses(*urls) == ["not_public"] * len(inside)


@pytest.mark.parametrize("robots", [False, True])
def test_no_spelling_passes_beside_what_is_allowed(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch, robots: bool
) -> None:
    monkeypatch.setenv(VARIABLE, "images.corp.example, *.lab.example, 10.20.0.0/16, fd12::/32")
    port = server.ports["plain"]
    ask.names.answers |= {
        name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.", "127.0.0.1.")
    }
    urls = [f"http://{host}:{port}/ok" for host in SPELLINGS]
    urls += [text.replace("127.0.0.1/", f"127.0.0.1:{port}/") for text in NONSENSE]
    assert set(ask.statuses(*urls, robots=robots)) <= REFUSED
    assert server.connections == 0


def test_an_api_of_ones_own_may_be_asked(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1")

    async def main() -> str:
        client = ask.client()
        await client.open()
        reply = await client.get_json(server.url + "/api", {"q": "cat"})
        await client.close()
        return reply.status

    assert asyncio.run(main()) == "ok"


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("*", "neither a host nor a network"), ("a.*", "neither"), ("0.0.0.0/0", r"wider than /8"),
        ("::/0", "wider than /7"),
        ("10.0.0.1/8", "bits of a host"), ("127.1", "no network"), ("10.0.0.256", "no network"),
        ("a.test:80", "no network"),
        ("http://a.test/", "no network"), ("a..b", "neither"), ("!x", "neither"),
        ("10.0.0.1-10.0.0.9", "neither"), ("0x7f000001/8", "no network"),
    ],
)  # fmt: skip
def test_what_is_no_host_is_said_in_one_line(word: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"^WEBDISTILL_ALLOW_HOSTS: '.*' .*{why}.*without ports$"):
        allowed_hosts({VARIABLE: f"a.test, {word}"})


def test_no_spelling_of_a_list_passes_however_it_is_dressed(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As search stores it and fetch asks for it: with schemes, user info, ports and escapes around each spelling."""
    monkeypatch.setenv(VARIABLE, "images.corp.example, 10.20.0.0/16")
    port = server.ports["plain"]
    ask.names.answers |= {
        name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.", "127.0.0.1.")
    }
    listed = [
        f"{scheme}{user}{host}:{port}{path}"
        for host in SPELLINGS
        for scheme in ("http://", "HTTP://", "//", "http:&#47;&#47;")
        for user in ("", "images.corp.example@", "images.corp.example:80@")
        for path in ("/ok", "/x/../ok#a@b", "/%2e%2e/ok?a=%2F&amp;utm_source=x")
    ]
    found = dict(zip(listed, ask.statuses(*map(normalise_url, listed)), strict=True))
    assert len(listed) > 1_702
    assert {url: status for url, status in found.items() if status not in REFUSED} == {}
    assert server.connections == 0


def test_a_host_that_is_allowed_leads_to_no_other(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect is judged as an address of a list is, and so is one in raw bytes."""
    monkeypatch.setenv(VARIABLE, "a.test")
    port = server.ports["plain"]
    ask.names.answers |= {
        name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.", "127.0.0.1.")
    }
    places = [f"http://{host}:{port}/ok" for host in SPELLINGS] + [
        f"//{host}:{port}/ok" for host in SPELLINGS
    ]
    places += [text.replace("127.0.0.1/", f"127.0.0.1:{port}/") for text in NONSENSE]
    urls = [f"{server.at('a.test')}/raw/{place.encode().hex()}" for place in places]
    found = dict(zip(places, ask.statuses(*urls), strict=True))
    wrong = {
        place: it
        for place, it in found.items()
        if it not in REFUSED | {"bad_redirect", "connection_error"}
    }
    assert wrong == {}
    assert not server.asked["/ok"]
    assert {request["headers"]["host"] for request in server.requests} == {f"a.test:{port}"}
