"""What becomes of an answer: statuses, caps (F4), deadline (F5), redirects (F3), tries (F10), user agent (F8)."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

import pytest

from webdistill.core.errors import UserError
from webdistill.web import client as client_module
from webdistill.web.client import MAX_REDIRECTS, Client, _is_final, contact_address
from webdistill.web.reply import Reply, WebStatus, may_pass

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

BODY = bytes(range(256)) * 4


@pytest.mark.usefixtures("loopback")
def test_answers_and_their_statuses(server: Server, ask: Ask) -> None:
    assert ask(server.url + "/ok", server.url + "/packed") == [Reply("ok", BODY, 200)] * 2
    expected = {
        "/status/404": ("not_found", 404), "/status/410": ("not_found", 410), "/status/403": ("http_error", 403),
        "/status/204": ("http_error", 204), "/status/304": ("http_error", 304), "/status/500": ("http_error", 500),
        "/status/429": ("rate_limited", 429), "/noise": ("connection_error", 0), "/hang-up": ("connection_error", 0),
        "/cut": ("connection_error", 0), "/broken-pack": ("connection_error", 0),
        "/endless-headers": ("connection_error", 0), "/endless-header": ("connection_error", 0),
    }  # fmt: skip
    found = ask(*(server.url + path for path in expected))
    assert dict(zip(expected, [(r.status, r.http_status) for r in found], strict=True)) == expected
    assert {r.status for r in found} <= set(get_args(WebStatus))
    assert not any(r.data for r in found)


@pytest.mark.usefixtures("loopback")
def test_every_request_names_us_and_a_contact_and_nothing_else(server: Server, ask: Ask) -> None:
    ask(server.url + "/cookie", server.url + "/ok", in_turn=True)
    for request in server.requests:
        headers = request["headers"]
        assert headers["user-agent"].startswith("webdistill/")
        assert headers["user-agent"].endswith("(+me@example.org)")
        assert headers["accept-encoding"] == "identity"
        assert not {"cookie", "authorization", "referer"} & set(headers)


@pytest.mark.usefixtures("loopback")
def test_user_info_is_never_sent(server: Server, ask: Ask) -> None:
    (reply,) = ask(server.url.replace("//", "//me:secret@") + "/ok#part")
    assert reply.status == "ok"
    (request,) = server.requests
    assert "secret" not in repr(request)
    assert "part" not in repr(request)


@pytest.mark.usefixtures("loopback")
def test_nobody_listens(ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert ask.statuses(f"http://127.0.0.1:{taken.getsockname()[1]}/") == ["connection_error"]


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize(
    "path", ["endless", "endless-chunks", "announced", "bomb", "bomb-within", "bomb-of-nothing"]
)
def test_the_cap_counts_decoded_bytes_and_memory_stays_flat(
    server: Server, ask: Ask, path: str
) -> None:
    ask(server.url + "/ok")
    tracemalloc.start()
    (reply,) = ask(f"{server.url}/{path}", timeout=30.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (reply.status, reply.http_status, reply.data) == ("too_large", 200, b"")
    assert peak < 4 << 20, "the bombs hold 32 MiB, the streams have no end"


@pytest.mark.usefixtures("loopback")
def test_a_body_of_exactly_the_cap_passes(server: Server, ask: Ask) -> None:
    for path in ("/ok", "/packed"):
        assert ask.statuses(server.url + path, max_bytes=len(BODY)) == ["ok"]
        assert ask.statuses(server.url + path, max_bytes=len(BODY) - 1) == ["too_large"]


@pytest.mark.usefixtures("loopback")
def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(server: Server, ask: Ask) -> None:
    urls = [server.url + path for path in ("/two-answers", "/ok/1", "/two-answers", "/ok/2")]
    assert [reply.data for reply in ask(*urls, in_turn=True)] == [BODY] * 4


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize("path", ["pause/30", "drip", "drip-body", "silent", "endless-continue"])
def test_a_url_costs_at_most_its_deadline(server: Server, ask: Ask, path: str) -> None:
    started = time.monotonic()
    (reply,) = ask(f"{server.url}/{path}", timeout=0.4, retries=5)
    assert (reply.status, reply.detail) == ("timeout", "no complete answer in time")
    assert 0.4 <= time.monotonic() - started < 5


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize(
    ("answer", "status", "http_status"), [(302, "timeout", 0), (503, "http_error", 503)]
)
def test_all_redirects_and_all_tries_share_one_deadline(
    server: Server,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    answer: int,
    status: str,
    http_status: int,
) -> None:
    """Each answer takes half a second: five of them to the end of a chain, eleven with all tries."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    started = time.monotonic()
    (reply,) = ask(f"{server.url}/late/{answer}/0.5", timeout=1.8, retries=10)
    assert (reply.status, reply.http_status) == (status, http_status)
    assert server.asked.total() <= 4
    assert time.monotonic() - started < 4


@pytest.mark.usefixtures("loopback")
def test_pauses_between_tries_are_part_of_the_deadline(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses of 0.1, 0.2 and 0.4 s leave less than the next one of 0.8 s."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(client_module.random, "uniform", lambda _, high: high)
    assert ask.statuses(server.url + "/status/503", timeout=1.4, retries=5) == ["http_error"]
    assert server.asked.total() <= 4


@pytest.mark.usefixtures("loopback")
def test_who_accepts_and_says_nothing_costs_the_deadline(ask: Ask) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert (
            ask.statuses(f"http://{address}/", f"https://{address}/", timeout=0.3)
            == ["timeout"] * 2
        )


@pytest.mark.usefixtures("loopback")
def test_the_last_complete_try_tells_the_cause(server: Server, ask: Ask) -> None:
    (reply,) = ask(server.url + "/sick", timeout=1.5, retries=1)
    assert (reply.status, reply.http_status) == ("http_error", 503)
    assert server.asked["/sick"] == 2


@pytest.mark.usefixtures("loopback")
def test_four_redirects_are_followed_and_no_fifth(server: Server, ask: Ask) -> None:
    assert MAX_REDIRECTS == 4
    urls = [server.url + path for path in ("/hops/3", "/hops/4", "/loop")]
    assert ask.statuses(*urls) == ["ok", "bad_redirect", "bad_redirect"]
    assert server.asked["/loop"] == 5
    assert server.asked["/ok"] == 1


@pytest.mark.usefixtures("loopback")
def test_each_hop_is_checked_again(server: Server, ask: Ask) -> None:
    inside = [
        "http://10.0.0.1/", "http://169.254.169.254/latest", "http://[fd00::1]/", "http://[::ffff:10.0.0.1]/",
        "http://100.100.100.200/", "//192.168.0.1/x", "http://inside.example/",
    ]  # fmt: skip
    ask.names.answers["inside.example"] = [["10.0.0.1"]]
    found = ask.statuses(*(f"{server.url}/to/{quote(target, safe='')}" for target in inside))
    assert found == ["not_public"] * len(inside)
    wrong = [
        "file:///etc/passwd", "ftp://example.org/", "data:image/png;base64,AAAA", "javascript:1", "http://",
        "http:\\\\x", "http://][@",
    ]  # fmt: skip
    found = ask.statuses(*(f"{server.url}/to/{quote(target, safe='')}" for target in wrong))
    assert found == ["bad_redirect"] * len(wrong)
    assert ask.statuses(server.url + "/nowhere") == ["bad_redirect"]


@pytest.mark.usefixtures("loopback")
def test_only_what_may_pass_is_asked_again(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    tries = {
        "/flaky/2": 3, "/flaky/3": 3, "/status/408": 3, "/status/500": 3, "/status/502": 3, "/noise": 3, "/cut": 3,
        "/hang-up": 3, "/status/400": 1, "/status/403": 1, "/status/404": 1, "/status/410": 1, "/status/501": 1,
        "/nowhere": 1, "/tag/noai": 1, "/ok": 1, "/endless": 1,
    }  # fmt: skip
    found = ask.statuses(*(server.url + path for path in tries), retries=2)
    assert found[:2] == ["ok", "http_error"]
    assert dict(server.asked) == tries


@pytest.mark.parametrize(
    ("status", "http_status", "expected"),
    [
        ("timeout", 0, True), ("dns_error", 0, True), ("connection_error", 0, True), ("rate_limited", 429, True),
        ("rate_limited", 0, True), ("http_error", 503, True), ("http_error", 403, False), ("robots", 503, True),
        ("robots", 0, False), ("not_found", 404, False), ("opted_out_header", 200, False), ("not_public", 0, False),
        ("too_large", 200, False), ("bad_url", 0, False), ("bad_redirect", 302, False), ("ok", 200, False),
    ],
)  # fmt: skip
def test_what_may_pass(status: str, http_status: int, expected: bool) -> None:
    assert may_pass(status, http_status) is expected


@pytest.mark.parametrize(
    ("reply", "final"),
    [
        (Reply("timeout"), False), (Reply("rate_limited", http_status=429), False), (Reply("ok"), True),
        (Reply("connection_error"), False), (Reply("connection_error", robots="unreachable"), True),
        (Reply("rate_limited"), True), (Reply("dns_error"), True), (Reply("not_found", http_status=404), True),
    ],
)  # fmt: skip
def test_a_refusal_before_any_request_is_not_tried_again_at_once(reply: Reply, final: bool) -> None:
    assert _is_final(reply) is final


@pytest.mark.usefixtures("loopback")
def test_back_off_doubles_and_is_jittered(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.4)
    ask(*(f"{server.url}/flaky/9?{n}" for n in range(6)), retries=2)
    first, second = [], []
    for n in range(6):
        a, b, c = (r["time"] for r in server.requests if r["path"] == f"/flaky/9?{n}")
        first.append(b - a)
        second.append(c - b)
    assert min(first) >= 0.2 - 0.1  # arrivals are logged a little late
    assert min(second) >= 0.4 - 0.1
    assert max(first) - min(first) > 0.005, "all of them at the same moment would be a stampede"


@pytest.mark.usefixtures("loopback")
def test_a_server_that_hangs_up_is_not_asked_again_behind_our_back(
    server: Server, ask: Ask
) -> None:
    assert ask.statuses(server.url + "/ok", server.url + "/hang-up", in_turn=True) == [
        "ok",
        "connection_error",
    ]
    assert server.asked["/hang-up"] == 1


def talk(ask: Ask, use: Callable[[Client], Any], **settings: Any) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(20):
            client = ask.client(**settings)
            await client.open()
            try:
                return await use(client)
            finally:
                await client.close()

    return asyncio.run(main())


@pytest.mark.usefixtures("loopback")
def test_an_api_is_asked_for_json_without_robots_txt(server: Server, ask: Ask) -> None:
    async def use(client: Client) -> list[Reply]:
        at = server.at("deny.test") + "/api/images?a=1"
        return [
            await client.get_json(at, {"q": "cats & dogs", "page": "2"}),
            await client.get_json(server.url + "/tag/noai", {}),
            await client.get_json("ftp://example.org/", {}),
            await client.get_json(server.url + "/endless", {}),
        ]

    found = talk(ask, use, robots=True)
    assert [reply.status for reply in found] == ["ok", "ok", "bad_url", "too_large"]
    assert found[0] == Reply("ok", BODY, 200)
    request = server.requests[0]
    assert request["path"].partition("?")[2] in (
        "a=1&q=cats+%26+dogs&page=2",
        "a=1&q=cats%20%26%20dogs&page=2",
    )
    assert request["headers"]["accept"] == "application/json"


@pytest.mark.usefixtures("loopback")
def test_no_request_without_a_contact(server: Server, ask: Ask) -> None:
    async def use(client: Client) -> None:
        client._contact = ""
        async with client.get(server.url + "/ok"):
            pass

    with pytest.raises(AssertionError, match="contact"):
        talk(ask, use)
    assert server.connections == 0


@pytest.mark.parametrize(
    "contact", ["me@example.org", "https://example.org/bot", "mailto:me@example.org"]
)
def test_a_contact_that_will_do(contact: str) -> None:
    assert contact_address({"WEBDISTILL_CONTACT": f" {contact} "}) == contact


@pytest.mark.parametrize(
    "contact", ["", "me", "me@example.org\r\nX: y", "a b@c", "(me@example.org)"]
)
def test_a_contact_that_will_not(contact: str) -> None:
    with pytest.raises(UserError, match="WEBDISTILL_CONTACT"):
        contact_address({"WEBDISTILL_CONTACT": contact})
