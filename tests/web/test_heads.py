"""Answers as real servers send them: what browsers read is read (F3), and what stays refused says why in one line."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from webdistill.web.client import Client
from webdistill.web.heads import LONGEST_HEAD
from webdistill.web.reply import Reply

if TYPE_CHECKING:
    from tests.web.conftest import Ask

pytestmark = pytest.mark.usefixtures("loopback")
BODY = bytes(range(256)) * 4
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 1024\r\n"
CHUNKS = b"400\r\n" + BODY + b"\r\n0\r\n\r\n"


def whole(*headers: bytes, body: bytes = BODY, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def exchanges(
    ask: Ask,
    answers: Mapping[str, bytes],
    pieces: int = 0,
    keep: bool = False,
    retries: int = 0,
    only: int | None = None,
) -> tuple[list[Reply], list[bytes]]:
    """Replies to one URL after the other, and the requests. `pieces`: bytes at a time; `keep`: one connection."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                path = heads[-1].split(b" ")[1].decode()
                answer = answers[path]
                for at in range(0, len(answer), pieces or 1 << 20):
                    writer.write(answer[at : at + (pieces or 1 << 20)])
                    await writer.drain()
                    await asyncio.sleep(0)
                if not keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def each(urls: list[str]) -> list[Reply]:
        client = ask.client(retries=retries)
        await client.open()
        try:
            return [await one(client, url) for url in urls]
        finally:
            await client.close()

    async def one(client: Client, url: str) -> Reply:
        async with client.get(url) as reply:
            return reply

    async def main() -> list[Reply]:
        async with asyncio.timeout(30):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            urls = [f"http://127.0.0.1:{port}{path}" for path in answers]
            found = [await each(urls)] if keep else [await each([url]) for url in urls]
            server.close()
            return [reply for some in found for reply in some]

    return asyncio.run(main()), heads


READ = {
    "/one": whole(), "/repeated": OK + LENGTH + LENGTH + b"\r\n" + BODY,
    "/thrice": OK + LENGTH + b"X: y\r\ncontent-length:1024 \r\n" + LENGTH + b"\r\n" + BODY,
    "/list": OK + b"Content-Length: 1024, 1024\r\n\r\n" + BODY,
    "/last": OK + b"X: y\r\n" + LENGTH + b"CONTENT-LENGTH: 1024\r\n\r\n" + BODY,
    "/long-field": whole(b"X-Policy: " + b"x" * 60_000), "/many": whole(*(b"X-%d: abc" % n for n in range(2_000))),
    "/several": whole(*(b"X-%d: %s" % (n, b"y" * 7_900) for n in range(8))),
    "/203": whole(status=b"203 Non-Authoritative Information"),
    "/lf": b"HTTP/1.1 200 OK\nContent-Length: 1024\n\n" + BODY,
    "/latin": whole(b"X-Name: caf\xe9"),
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + whole(),
    "/chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS, "/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "/gzip": whole(b"Content-Encoding: gzip", body=gzip.compress(BODY)), "/utf-8": whole(b"Content-Encoding: utf-8"),
    "/none": whole(b"Content-Encoding: none"), "/x-gzip": whole(b"Content-Encoding: X-GZip", body=gzip.compress(BODY)),
    "/twice": whole(b"Content-Encoding: gzip, gzip", body=gzip.compress(gzip.compress(BODY))),
    "/two-lines": whole(b"Content-Encoding: gzip", b"content-encoding: GZIP", body=gzip.compress(gzip.compress(BODY))),
    "/mixed": whole(b"Content-Encoding: deflate,,identity, gzip ,", body=gzip.compress(zlib.compress(BODY))),
    "/thrice-packed": whole(b"Content-Encoding: gzip, deflate, gzip",
        body=gzip.compress(zlib.compress(gzip.compress(BODY)))),
    "/stored-on-aws": whole(b"Content-Encoding: gzip,aws-chunked", body=gzip.compress(BODY)),
    "/joined": whole(b"Content-Encoding: gzip",
        body=gzip.compress(BODY[:99]) + gzip.compress(b"") + gzip.compress(BODY[99:])),
    "/padded": whole(b"Content-Encoding: gzip", body=gzip.compress(BODY) + bytes(9)),
    "/chunked-gzip": OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in gzip.compress(BODY)) + b"0\r\n\r\n",
    "/raw": whole(b"Content-Encoding: deflate", body=zlib.compress(BODY)[2:-4]),
    "/transfer": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(gzip.compress(BODY)), gzip.compress(BODY)),
    "/identity": whole(b"Transfer-Encoding: Identity"),
    "/identity-to-the-end": OK + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "/behind": whole() + b"<!-- 0.03 s -->", "/behind-the-last": whole(b"Connection: close") + b"\0\0",
    "/behind-the-line": whole() + b"\r\n\r\n<!-- -->",
    "/no-reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY,
}  # fmt: skip


@pytest.mark.parametrize("pieces", [0, 7])
def test_what_browsers_read_is_read(ask: Ask, pieces: int) -> None:
    answers = {path: it for path, it in READ.items() if not pieces or len(it) < 9_000}
    found, _ = exchanges(ask, answers, pieces)
    wrong = {path: reply for path, reply in zip(answers, found, strict=True) if reply.data != BODY}
    assert wrong == {}
    assert {reply.status for reply in found} == {"ok"}
    assert [r.http_status for r in found if r.http_status != 200] == [203]


def test_an_answer_after_another_is_read_as_one_of_its_own(ask: Ask) -> None:
    """On a kept connection, where the end of a body must not be taken for a head."""
    body = b"HTTP/1.1 100 x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"
    found, _ = exchanges(ask, {"/1": whole(body=body), "/2": READ["/repeated"]}, keep=True)
    assert [reply.data for reply in found] == [body, BODY]


def test_what_comes_behind_an_answer_is_not_read(ask: Ask) -> None:
    """Neither with it nor later, when another answer is awaited."""
    page, forged = b"<html>moved</html>", whole(body=b"forged")
    moved = [b"HTTP/1.1 302 Found", b"Location: /to", b"Content-Length: 0", b"", page]
    answers = {
        "/from": b"\r\n".join(moved), "/to": whole() + page,
        "/same": b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n" + page,
        "/forged": whole() + forged, "/line": whole() + b"\r\n", "/next": whole(),
    }  # fmt: skip
    found, heads = exchanges(ask, answers, keep=True)
    shown = [(reply.status, reply.http_status, reply.data) for reply in found]
    assert shown[2] == ("http_error", 304, b"")
    assert shown[:2] + shown[3:] == [("ok", 200, BODY)] * 5
    assert len(heads) == len(answers) + 1, "nothing was asked for again"


def test_a_redirect_of_a_server_that_hangs_up_without_saying_so_is_followed(ask: Ask) -> None:
    """At the second try: the connection of the first answer may not serve the second request."""
    hop = whole(b"Location: /to", body=b"", status=b"302 Found")
    found, heads = exchanges(ask, {"/from": hop, "/to": whole()}, retries=1)
    assert [(reply.status, reply.data) for reply in found] == [("ok", BODY)] * 2
    assert len(heads) <= 5


REFUSED = {
    OK + LENGTH + b"Content-Length: 1023\r\n\r\n" + BODY: "ClientResponseError: Duplicate Content-Length",
    OK + b"Content-Length: 1024, 1023\r\n\r\n" + BODY: "ClientResponseError: Invalid character in Content-Length",
    OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS:
        "ClientResponseError: Transfer-Encoding can't be present with Content-Length",
    whole(b"X-Big: " + b"x" * LONGEST_HEAD): "ClientResponseError: the headers are longer than 64 KiB",
    whole(*(b"X-Big: " + b"x" * 9_000,) * 8): "ClientResponseError: the headers are longer than 64 KiB",
    whole(b"no header"): "ClientResponseError: Invalid header token",
    whole(b"X : http://secret.example/"): "ClientResponseError: Invalid header token",
    whole(b"Content-Encoding: gzip"): "ClientPayloadError: Can not decode content-encoding",
    whole(b"Content-Encoding: deflate", body=zlib.compress(BODY)[:-9]):
        "ClientPayloadError: Can not decode content-encoding",
    whole(b"Content-Encoding: gzip, gzip", body=gzip.compress(BODY)):
        "ClientPayloadError: Can not decode content-encoding",
    whole(b"Content-Encoding: br"): "ClientPayloadError: content-encoding br is not read here",
    whole(b"Content-Encoding: zstd, gzip"): "ClientPayloadError: content-encoding zstd is not read here",
    whole(b"Content-Encoding: " + b"gzip, " * 4): "ClientPayloadError: more than 3 layers of content-encoding",
    whole(b"Content-Encoding: gzip", body=gzip.compress(b"") * 1001):
        "ClientPayloadError: more than 1000 members in content-encoding",
    OK + b"Content-Length: 2048\r\n\r\n" + BODY: "ClientPayloadError: Not enough data to satisfy content length header",
    OK + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + BODY:
        "ClientPayloadError: Not enough data to satisfy transfer length header",
    b"GIF89a\r\n\r\n": "ClientResponseError: Expected HTTP/, RTSP/ or ICE/", b"": "ServerDisconnectedError",
}  # fmt: skip


def test_what_stays_refused_says_why_and_quotes_nothing(ask: Ask) -> None:
    answers = {f"/{n}": answer for n, answer in enumerate(REFUSED)}
    found, _ = exchanges(ask, answers)
    assert [reply.detail for reply in found] == list(REFUSED.values())
    assert {reply.status for reply in found} == {"connection_error"}


def test_a_part_of_a_file_is_no_file(ask: Ask) -> None:
    found, _ = exchanges(ask, {"/206": whole(status=b"206 Partial Content")})
    assert [(r.status, r.http_status, r.detail) for r in found] == [("http_error", 206, "HTTP 206")]


def test_what_is_accepted_ends_with_everything(ask: Ask) -> None:
    _, (head,) = exchanges(ask, {"/x": whole()})
    (accept,) = [line for line in head.decode().split("\r\n") if line.startswith("Accept:")]
    assert accept.startswith("Accept: image/webp,")
    assert accept.endswith("*/*;q=0.1")


def test_cookies_live_as_long_as_a_chain_of_redirects(ask: Ask) -> None:
    def hop(to: str, *cookies: bytes) -> bytes:
        headers = [b"Set-Cookie: " + one for one in cookies]
        return whole(b"Location: " + to.encode(), *headers, body=b"", status=b"302 Found")

    answers = {
        "/a": hop("/b", b"id=1; Path=/", b"only=2; Path=/c", b"tls=3; Secure", b"gone=4; Max-Age=0", b'q="5"; Path=/'),
        "/b": hop("/c", b"id=6; Path=/; HttpOnly"), "/c": whole(), "/d": whole(b"Set-Cookie: id=7"), "/e": whole(),
    }  # fmt: skip
    found, heads = exchanges(ask, answers, keep=True)
    assert [reply.status for reply in found] == ["ok"] * 5
    sent: dict[str, list[str]] = {}
    for head in heads:
        lines = head.decode().split("\r\n")
        sent.setdefault(lines[0].split(" ")[1], []).append(
            next((line for line in lines if line.startswith("Cookie:")), "")
        )
    assert sent["/a"] == [""]
    assert sent["/b"] == ['Cookie: id=1; q="5"', ""], "in the chain of /a, and by itself"
    assert set(sent["/c"][0].removeprefix("Cookie: ").split("; ")) == {"id=6", "only=2", 'q="5"'}
    assert sent["/c"][1:] == ["Cookie: id=6", ""]
    assert sent["/d"] == sent["/e"] == [""]


@pytest.mark.parametrize(
    "value",
    ["YWI=", "a/b+c", "x:y,z", "x y", '"x y"', '{"id":1}', "%7B%22", "", '"a', "caf\xe9"],
)
def test_a_cookie_comes_back_as_it_was_set(ask: Ask, value: str) -> None:
    headers = (b"Location: /b", f"Set-Cookie: id={value}; Path=/".encode())
    hop = whole(*headers, body=b"", status=b"302 Found")
    _, heads = exchanges(ask, {"/a": hop, "/b": whole()}, keep=True)
    assert f"\r\nCookie: id={value}\r\n" in heads[1].decode()


def test_a_cookie_that_is_none_is_passed_by_in_silence(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    headers = (b"Set-Cookie: a name=1", b"Set-Cookie: id=2; Path=/", b"Location: /b")
    hop = whole(*headers, body=b"", status=b"302 Found")
    _, heads = exchanges(ask, {"/a": hop, "/b": whole()}, keep=True)
    assert b"\r\nCookie: id=2\r\n" in heads[1]
    assert caplog.records == []


def test_a_cookie_is_for_the_host_that_set_it(ask: Ask) -> None:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        port = writer.get_extra_info("sockname")[1]
        to = {"/a": f"http://b.test:{port}/b", "/b": f"http://sub.a.test:{port}/c"}
        path = heads[-1].split(" ")[1]
        cookies = (
            b"Set-Cookie: host=1",
            b"Set-Cookie: wide=2; Domain=a.test",
            b"Set-Cookie: other=3; Domain=b.test",
        )
        led = (b"Location: " + to[path].encode(),) if path in to else ()
        writer.write(
            whole(*led, *(cookies if path == "/a" else ()), status=b"302 x" if led else b"200 x")
        )
        await writer.drain()
        writer.close()

    async def main() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = ask.client()
        await client.open()
        async with client.get(f"http://a.test:{server.sockets[0].getsockname()[1]}/a") as reply:
            status = reply.status
        await client.close()
        server.close()
        return status

    assert asyncio.run(main()) == "ok"
    found = [[line for line in head.split("\r\n") if line.startswith("Cookie")] for head in heads]
    assert found == [[], [], ["Cookie: wide=2"]]
