"""fetch over http, against a hostile server on 127.0.0.1 and addresses that must never be reached."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from yarl import URL

from stages.fetch.addresses import is_loopback, is_public, parse
from stages.fetch.candidates import read_candidates
from stages.fetch.crawl import Crawl
from stages.fetch.http import MAX_REDIRECTS, PER_HOST, Client, contact_address
from stages.fetch.outcomes import Body, Outcome
from stages.fetch.params import Fetch
from stages.search.candidates import find_candidates
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file, write_table

CONTACT = "me@example.org"
CAP = 50_000


class Server(ThreadingHTTPServer):
    """Counts connections and requests; knows each path's misbehaviour."""

    daemon_threads = True

    def __init__(self, image: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.image = image
        self.connections = 0
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def get_request(self) -> tuple[Any, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up early are the point of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Silence."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        server, path = self.server, self.path
        with server.lock:
            server.requests[path] += 1
            server.agents.add(self.headers.get("User-Agent", ""))
        self.behave(path.strip("/").split("/"), server)

    def behave(self, words: list[str], server: Server) -> None:
        match words:
            case ["ok", *_]:
                self.answer(200, server.image)
            case ["status", code]:
                self.answer(int(code))
            case ["flaky", failures]:
                failing = server.requests[self.path] <= int(failures)
                self.answer(503 if failing else 200, server.image)
            case ["sick"]:
                time.sleep(1.5 if server.requests[self.path] > 1 else 0)
                self.answer(503)
            case ["hops", count]:
                self.answer(302, Location=f"/hops/{int(count) - 1}" if int(count) else "/ok")
            case ["to", *rest]:
                self.answer(301, Location=unquote("/".join(rest)))
            case ["nowhere"]:
                self.answer(302)
            case ["pause", seconds]:
                with server.lock:
                    server.busy += 1
                    server.most_busy = max(server.most_busy, server.busy)
                time.sleep(float(seconds))
                with server.lock:  # before the answer, which lets the client go on
                    server.busy -= 1
                self.answer(200, server.image)
            case ["drip"]:
                self.send_response(200)
                self.end_headers()
                for byte in server.image:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            case ["endless"]:
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(b"\0" * 65536)
            case ["announced"]:
                self.send_response(200)
                self.send_header("Content-Length", str(10**12))
                self.end_headers()
            case ["bomb"]:
                self.answer(200, gzip.compress(b"\0" * 30_000_000), Content_Encoding="gzip")
            case ["packed"]:
                self.answer(200, gzip.compress(server.image), Content_Encoding="gzip")
            case ["cut"]:
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.image) + 10))
                self.end_headers()
                self.wfile.write(server.image)
            case ["noise"]:
                self.wfile.write(b"\x00\x01\x02 not http at all\r\n\r\n")
            case ["hang-up"]:
                self.connection.close()
            case _:
                self.answer(404)


@pytest.fixture
def image() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (20, 10), "teal").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def server(image: bytes) -> Iterator[Server]:
    with Server(image) as server:
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield server
        server.shutdown()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")


def get(
    *urls: str,
    timeout: float = 2.0,
    retries: int = 0,
    patch: Callable[[Client], None] | None = None,
) -> list[Body]:
    async def body(client: Client, url: str) -> Body:
        async with client.get(url) as found:
            return found

    async def main() -> list[Body]:
        client = Client(CONTACT, timeout, retries, CAP)
        if patch is not None:
            patch(client)
        await client.open()
        try:
            return list(await asyncio.gather(*(body(client, url) for url in urls)))
        finally:
            await client.close()

    return asyncio.run(main())


def statuses(server: Server, *paths: str, **options: Any) -> list[tuple[str, int]]:
    return [(b.status, b.http_status) for b in get(*(server.url + p for p in paths), **options)]


@pytest.mark.usefixtures("loopback")
def test_answers_and_their_statuses(server: Server, image: bytes) -> None:
    (body,) = get(server.url + "/ok")
    assert body == Body("ok", image, 200)
    assert get(server.url + "/packed")[0].data == image
    assert statuses(
        server, "/status/404", "/status/410", "/status/403", "/status/204", "/status/500", "/noise", "/hang-up", "/cut",
    ) == [
        ("not_found", 404), ("not_found", 410), ("http_error", 403), ("http_error", 204), ("http_error", 500),
        ("connection_error", 0), ("connection_error", 0), ("connection_error", 0),
    ]  # fmt: skip
    agent = server.agents.pop()
    assert agent.startswith("webdistill/")
    assert CONTACT in agent


@pytest.mark.usefixtures("loopback")
def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert get(f"http://127.0.0.1:{taken.getsockname()[1]}/")[0].status == "connection_error"


@pytest.mark.usefixtures("loopback")
def test_body_cap_counts_decoded_bytes(server: Server) -> None:
    started = time.monotonic()
    assert statuses(server, "/endless", "/announced", "/bomb") == [("too_large", 200)] * 3
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("loopback")
def test_one_deadline_for_everything(server: Server) -> None:
    started = time.monotonic()
    found = statuses(server, "/pause/3", "/drip", timeout=0.4, retries=5)
    assert [status for status, _ in found] == ["timeout", "timeout"]
    assert time.monotonic() - started < 1.5
    with socket.socket() as silent:  # accepts and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (body,) = get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3)
        assert body.status == "timeout"


@pytest.mark.usefixtures("loopback")
def test_redirects(server: Server) -> None:
    assert statuses(server, f"/hops/{MAX_REDIRECTS - 1}", f"/hops/{MAX_REDIRECTS}") == [
        ("ok", 200),
        ("bad_redirect", 0),
    ]
    assert server.requests["/ok"] == 1
    inside = [
        "http://10.0.0.1/", "http://169.254.169.254/latest", "http://[fd00::1]/", "http://[::ffff:10.0.0.1]/",
        "http://100.100.100.200/", "//192.168.0.1/x",
    ]  # fmt: skip
    found = statuses(server, *(f"/to/{target}" for target in inside))
    assert [status for status, _ in found] == ["not_public"] * len(inside)
    wrong = [
        "file:///etc/passwd",
        "ftp://example.org/",
        "data:image/png;base64,AAAA",
        "javascript:1",
    ]
    assert statuses(server, "/nowhere", *(f"/to/{target}" for target in wrong)) == [
        ("bad_redirect", 302),
        *[("bad_redirect", 301)] * len(wrong),
    ]


def test_never_from_https_to_http() -> None:
    asked: list[URL] = []

    def patch(client: Client) -> None:
        async def request(url: URL) -> Body | URL:
            asked.append(url)
            return URL("http://example.org/plain")

        client._request = request  # type: ignore[method-assign]

    (body,) = get("https://example.org/x", patch=patch)
    assert body.status == "bad_redirect"
    assert len(asked) == 1


@pytest.mark.usefixtures("loopback")
def test_only_what_may_pass_is_retried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.fetch.http.FIRST_PAUSE", 0.01)
    assert statuses(server, "/flaky/2", "/flaky/3", retries=2) == [("ok", 200), ("http_error", 503)]
    assert (server.requests["/flaky/2"], server.requests["/flaky/3"]) == (3, 3)
    statuses(server, "/status/404", "/status/403", "/status/429", "/noise", retries=2)
    asked = [server.requests[p] for p in ("/status/404", "/status/403", "/status/429", "/noise")]
    assert asked == [1, 1, 3, 3]


@pytest.mark.usefixtures("loopback")
def test_few_at_a_time_per_host(server: Server) -> None:
    found = statuses(server, *["/pause/0.2"] * 24, timeout=0.6)
    assert {status for status, _ in found} == {"ok"}, "waiting for a slot is no delay"
    assert server.most_busy <= PER_HOST


@pytest.mark.usefixtures("loopback")
def test_a_slot_is_taken_until_the_body_is_done_with(server: Server) -> None:
    async def main() -> None:
        client = Client(CONTACT, 2.0, 0, CAP)
        client._slots = asyncio.Semaphore(1)
        await client.open()
        async with client.get(server.url + "/ok/1") as body:
            assert body.status == "ok"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), client.get(server.url + "/ok/2"):
                    raise AssertionError("two bodies at once")
        await client.close()

    asyncio.run(main())
    assert server.requests["/ok/2"] == 0


@pytest.mark.usefixtures("loopback")
def test_the_last_cause_is_told(server: Server) -> None:
    assert statuses(server, "/sick", timeout=1.0, retries=1) == [("http_error", 503)]
    assert server.requests["/sick"] == 2


def test_slow_names_do_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(40)

    def look_up(*_: object, **__: object) -> None:
        together.wait(5)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    found = get(*(f"http://{n}.example.org/" for n in range(40)), timeout=10.0)
    assert {body.status for body in found} == {"dns_error"}
    assert not together.broken


SPELLINGS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1",
    "0x7f.0x0.0x0.0x1", "017700000001", "0177.0.0.1", "127.0.0.01", "localhost", "LOCALHOST", "localhost.",
    "127.0.0.1.", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::1]",
    "[2001:0:7f00:1::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fe80::1]", "[fe80::1%25lo]", "[fec0::1]",
    "[fd00::1]", "[fc00::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]", "[3fff::1]", "[5f00::1]", "10.0.0.1",
    "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
    "192.0.0.192", "192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "127。0。0。1", "127．0．0．1", "①②⑦.⓪.⓪.①",
    "%31%32%37.0.0.1", "127.0.0.1%00.example.org", "me:pw@127.0.0.1", "example.org@127.0.0.1", "[::1", "", "..",
]  # fmt: skip
NONSENSE = [
    "file:///etc/hostname", "ftp://127.0.0.1/", "data:image/png;base64,iVBORw0KGgo=", "gopher://127.0.0.1/", "http:",
    "http://", "http:///x", "//127.0.0.1/", "http://127.0.0.1\r\nHost: x/", "http://127.0.0.1/\x00",
    "http:\\\\127.0.0.1\\", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "javascript:alert(1)",
    "unix:///run/x.sock", "\x7f", "http://a b/",
]  # fmt: skip


def test_no_spelling_reaches_a_private_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBDISTILL_ALLOW_LOOPBACK", raising=False)
    urls = [f"http://{host}:{server.server_port}/ok" for host in SPELLINGS]
    found = get(
        *urls,
        *(text.replace("127.0.0.1/", f"127.0.0.1:{server.server_port}/") for text in NONSENSE),
    )
    refused = {"not_public", "bad_url", "dns_error"}
    wrong = {
        u: b.status
        for u, b in zip([*urls, *NONSENSE], found, strict=True)
        if b.status not in refused
    }
    assert not wrong
    assert server.connections == 0
    assert len(SPELLINGS) >= 60


@pytest.mark.usefixtures("loopback")
def test_the_allowance_is_for_loopback_only() -> None:
    hosts = [
        "10.0.0.1",
        "169.254.169.254",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[64:ff9b::7f00:1]",
    ]
    assert {b.status for b in get(*(f"http://{host}/" for host in hosts))} == {"not_public"}


def test_a_name_that_resolves_to_a_private_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBDISTILL_ALLOW_LOOPBACK", raising=False)
    asked: list[str] = []

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        asked.append(host)
        both = ["127.0.0.1", "::1"] if host.startswith("two") else ["127.0.0.1"]
        return [
            {"hostname": host, "host": h, "port": port, "family": family, "proto": 0, "flags": 0}
            for h in both
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    urls = [f"http://{name}.example.org:{server.server_port}/ok" for name in ("rebind", "two")]
    assert [body.status for body in get(*urls)] == ["not_public", "not_public"]
    assert sorted(asked) == ["rebind.example.org", "two.example.org"], "each name is resolved once"
    assert server.connections == 0


def test_public_addresses_pass() -> None:
    for text in (
        "8.8.8.8",
        "93.184.216.34",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ):
        assert is_public(ip_address(text)), text
    assert parse("2130706433") is None
    assert parse("127.1") is None
    assert parse("fe80::1%lo") is None
    assert is_loopback(ip_address("127.0.0.2"))
    assert not is_loopback(ip_address("::ffff:127.0.0.1"))


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


def crawl(folder: Path, urls: list[str]) -> Crawl:
    path = folder / "web.csv"
    path.write_text("\n".join(["url", *urls]))
    header = {"list": str(path), "list_sha256": sha256_file(path)}
    write_table(find_candidates(path, {}, ("cat",)).table, folder / "candidates.parquet", header)
    params = Fetch(
        store_size=64, max_pixels=10**6, max_bytes=CAP, timeout=5.0, retries=0, shard_size=10
    )
    candidates = read_candidates(folder / "candidates.parquet", Path)
    return Crawl(candidates, params, folder / "chunks", folder / "local", 1)


@pytest.mark.usefixtures("loopback")
def test_a_later_run_asks_only_for_what_may_have_passed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBDISTILL_CONTACT", CONTACT)
    monkeypatch.setattr("stages.fetch.crawl.CHUNK", 3)
    paths = ["/ok/1", "/status/404", "/flaky/1", "/ok/2", "/ok/3", "/status/403", "/status/500"]
    urls = [server.url + path for path in paths]

    def finish() -> list[Outcome]:
        work = crawl(tmp_path, urls)
        assert sum(work.run()) == len(urls)
        found = list(work.outcomes())
        work.clean()
        return found

    first = finish()
    expected = ["ok", "not_found", "http_error", "ok", "ok", "http_error", "http_error"]
    assert [outcome.status for outcome in first] == expected
    assert all(outcome.image for outcome in first if outcome.status == "ok")
    second = finish()
    assert [outcome.status for outcome in second] == [*expected[:2], "ok", *expected[3:]]
    assert [server.requests[path] for path in paths] == [1, 1, 2, 1, 1, 1, 2]


def test_http_candidates_need_a_contact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBDISTILL_CONTACT", raising=False)
    with pytest.raises(UserError, match="WEBDISTILL_CONTACT"):
        crawl(tmp_path, ["http://example.org/a.jpg"])
    crawl(tmp_path, ["local.jpg"])
