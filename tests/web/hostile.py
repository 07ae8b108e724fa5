"""A hostile web server in a process of its own: `python hostile.py FOLDER`.

Prints one line of JSON with its ports, writes the authority that signed its good certificates to FOLDER/authority.pem
and keeps a log of connections and requests. A control port answers /log and /reset; a closed stdin ends the process.
The first words of a path say how to misbehave; for robots.txt the host's first label does.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import trustme

BODY = bytes(range(256)) * 4  # what /ok serves
HOSTS = ("127.0.0.1", "127.0.0.2")
MIB = 1 << 20
ROBOTS = {
    "deny": b"User-agent: *\nDisallow: /\n",
    "others": b"User-agent: *\nDisallow: /\n\nUser-agent: Webdistill\nDisallow: /ok/secret\nAllow: /ok\n",
    "bom": b"\xef\xbb\xbfUser-agent: *\nDisallow: /\n",
    "latin": b"# caf\xe9 \xff\xfe\nUser-agent: *\nDisallow: /ok/\xe9t\xe9\nDisallow: /ok/2\n",
    "page": b"<!doctype html><title>Nothing here</title>User-agent: *\n",
    "huge": b"User-agent: *\nDisallow: /ok/1\n" + b"# a long story\n" * 40_000 + b"Disallow: /ok/2\n",
    "cut": b"User-agent: *\nDisallow: /ok/1\n".ljust((500 << 10) - 12, b"#") + b"\nDisallow: /ok/22\n",
    "slowly": b"User-agent: *\nCrawl-delay: 0.3\n",
    "snail": b"User-agent: *\nCrawl-delay: 86400\n",
    "empty": b"",
    "joined": b"# BEGIN\nUser-agent: Foo\nAllow: /\n# END\n\xef\xbb\xbfUser-agent: *\nDisallow: /ok/1\n",
    "nul": b"User-agent: *\0\nDisallow: /ok/1\0\n",
    "version": b"User-agent: WebDistill/0.1 (+https://a.example)\nDisallow: /ok/1\n\nUser-agent: *\nAllow: /\n",
    "listed": b"User-agent: GPTBot, WebDistill/1.0, X # training\nDisallow: /ok/1\n\nUser-agent: *\nAllow: /\n",
    "utf16": "User-agent: *\nDisallow: /ok/1\n".encode("utf-16"),
    "utf16le": "User-agent: *\nDisallow: /ok/1\n".encode("utf-16-le"),
    "utf16be": b"\xfe\xff" + "# caf\xe9 \u65e5\nUser-agent: *\r\nDisallow: /ok/1\r\n".encode("utf-16-be"),
    "utf16be-bare": "User-agent: *\nDisallow: /ok/1\n".encode("utf-16-be"),
    "utf16-cut": "User-agent: *\nDisallow: /ok/1\n".encode("utf-16")
    + "\nDisallow: /ok/22".encode("utf-16-le") * 20_000,
    "utf32": "User-agent: *\nDisallow: /ok/1\n".encode("utf-32"),
    "utf32be": "User-agent: *\nDisallow: /ok/1\n".encode("utf-32-be"),
    "signal": b"User-agent: *\nContent-signal: search=yes,ai-train=no\nAllow: /\n\nUser-agent: GPTBot\nDisallow: /\n",
    "usage": b"User-Agent: *\nDisallow: /ok/never/\nContent-Usage: / train-ai=n\nContent-Usage: /ok/free/ train-ai=y\n",
}  # fmt: skip


RESERVED = {
    "reserved": b'[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.example/"}]',
    "partly": b'[{"location": "/ok/mine*", "tdm-reservation": 1}, {"location": "/ok/mine/free", "tdm-reservation": 0}]',
    "garbage": b"<!doctype html>",
    "deny": b'[{"location": "/", "tdm-reservation": 1}]',
}
WELL_KNOWN = {"wellknown": b"Training: deny\n"}  # its /ai.txt is a page
AI_TXT = {
    "wellknown": b"<html>Disallow: /</html>",
    "spawning": b"# Spawning AI\nUser-Agent: *\nDisallow: *.jpg\nAllow: *.png\n",
    "denies": b"# ai.txt\nSite-Name: Denies\nTraining: deny\nScraping: allow\n",
    "partly": b"User-agent: *\nDisallow: /ok/theirs\n",
    "shell": b"<!doctype html>\nUser-agent: *\nDisallow: /\n",
}


class State:
    """What happened since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.connections = 0
        self.busy: Counter[str] = Counter()
        self.most_busy: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.requests: list[dict[str, object]] = []

    def log(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("connections", "most_busy", "requests")}


@lru_cache
def bomb() -> bytes:
    """32 MiB of zeros in 32 KiB."""
    return gzip.compress(bytes(32 * MIB), 6)


class Exchange:
    """One request and the means to answer it badly."""

    def __init__(self, path: str, host: str, writer: asyncio.StreamWriter, state: State) -> None:
        self.path = path
        self.host = host
        self.writer = writer
        self.state = state
        self.times = state.seen[host + path]

    async def send(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        fields = {"Content-Length": str(len(body)), **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        head = "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""])
        await self.send(head.encode("latin-1") + body)

    async def drip(self, data: bytes) -> None:
        for at in range(len(data)):
            await self.send(data[at : at + 1])
            await asyncio.sleep(0.05)

    async def repeat(self, start: bytes, data: bytes) -> None:
        await self.send(start)
        while True:
            await self.send(data)

    async def behave(self) -> None:
        if self.path.partition("?")[0] == "/robots.txt":
            await self.serve_robots()
            return
        if self.path == "/.well-known/tdmrep.json":
            name = self.host.partition(".")[0]
            if name == "mute":
                await asyncio.sleep(60)
            await self.answer(200 if name in RESERVED else 404, RESERVED.get(name, b""))
            return
        if self.path.endswith("/ai.txt"):
            name, told = self.host.partition(".")[0], AI_TXT
            if self.path != "/ai.txt":
                told = WELL_KNOWN
            await self.answer(200 if name in told else 404, told.get(name, b""))
            return
        words = self.path.partition("?")[0].strip("/").split("/")
        more = unquote("/".join(words[1:]))
        match words[0]:
            case "forbidding":
                await self.answer(200, b"User-agent: *\nDisallow: /")
            case "ok" | "api":
                await self.answer(200, BODY)
            case "status":
                await self.answer(int(more))
            case "flaky":
                await self.answer(503 if self.times <= int(more) else 200, BODY)
            case "sick":
                await asyncio.sleep(0 if self.times == 1 else 30)
                await self.answer(503)
            case "hops":
                await self.answer(302, Location=f"/hops/{int(more) - 1}" if int(more) else "/ok")
            case "loop":
                await self.answer(302, Location=self.path)
            case "to":
                await self.answer(301, Location=more)
            case "raw":  # /raw/HEX, the bytes of a Location
                place = bytes.fromhex(more).decode("latin-1")
                await self.answer(302, Location=place) if place else await self.answer(302)
            case "nowhere":
                await self.answer(302)
            case "pause":
                await asyncio.sleep(float(more))
                await self.answer(200, BODY)
            case "late":  # /late/STATUS/SECONDS; a redirect leads back here
                status, _, seconds = more.partition("/")
                await asyncio.sleep(float(seconds))
                await self.answer(int(status), Location=self.path)
            case "tag":
                await self.answer(200, BODY, X_Robots_Tag=more)
            case "tags":
                await self.answer(200, BODY, X_Robots_Tag="all\r\nX-Robots-Tag: noai")
            case "tagged":
                await self.answer(int(more), BODY, X_Robots_Tag="noindex", Location="/ok")
            case "usage":  # /usage/HEADER/VALUE
                name, _, value = more.partition("/")
                await self.answer(200, BODY, **{name: value})
            case "reserved":
                await self.answer(200, BODY, TDM_Reservation=more)
            case "busy":  # /busy/STATUS/TIMES/VALUE
                status, times, *values = more.split("/", 2)
                value = "".join(values)
                if value.startswith("date+"):
                    later = time.time() + float(value.removeprefix("date+"))
                    value = format_datetime(datetime.fromtimestamp(later, UTC), usegmt=True)
                fields = {"Retry_After": value} if value else {}
                turned_away = self.times <= int(times)
                await self.answer(int(status) if turned_away else 200, BODY, **fields)
            case "last":
                await self.answer(200, BODY, Connection="close")
                self.writer.close()
            case "cookie":
                await self.answer(200, BODY, Set_Cookie="id=1; Path=/")
            case _:
                await self.attack(words[0])

    async def attack(self, name: str) -> None:
        ok, zeros = b"HTTP/1.1 200 OK\r\n", bytes(1 << 16)
        chunked = ok + b"Transfer-Encoding: chunked\r\n\r\n"
        match name:
            case "drip":
                await self.drip(ok + b"Content-Length: 1024\r\n\r\n" + BODY)
            case "drip-body":
                await self.send(ok + b"Content-Length: 1024\r\n\r\n")
                await self.drip(BODY)
            case "silent":
                await asyncio.sleep(60)
            case "shy":
                if self.times == 1:
                    await asyncio.sleep(60)
                await self.answer(200, BODY)
            case "endless":
                await self.repeat(ok + b"\r\n", zeros)
            case "endless-chunks":
                await self.repeat(chunked, b"10000\r\n" + zeros + b"\r\n")
            case "endless-headers":
                await self.repeat(ok, b"X-More: and more\r\n" * 100)
            case "endless-header":
                await self.repeat(ok + b"X-More: ", b"and more " * 1000)
            case "endless-continue":
                await self.repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
            case "announced":
                await self.send(ok + b"Content-Length: 1000000000000\r\n\r\n")
                await asyncio.sleep(60)
            case "bomb":
                await self.answer(200, bomb(), Content_Encoding="gzip")
            case "bomb-within":
                await self.answer(200, gzip.compress(bomb()), Content_Encoding="gzip, gzip")
            case "bomb-of-nothing":  # no byte is in so many empty blocks
                blocks = gzip.compress(b"\0\0\0\xff\xff" * (32 * MIB // 5))
                await self.answer(
                    200, gzip.compress(blocks), Content_Encoding="deflate, gzip, gzip"
                )
            case "packed":
                await self.answer(200, gzip.compress(BODY), Content_Encoding="gzip")
            case "broken-pack":
                await self.answer(
                    200, gzip.compress(BODY)[:10] + b"!" * 99, Content_Encoding="gzip"
                )
            case "cut":
                await self.send(ok + b"Content-Length: 2048\r\n\r\n" + BODY)
                self.writer.close()
            case "two-answers":  # the second one would be for whoever asks next
                forged = ok + b"Content-Length: 6\r\n\r\nforged"
                await self.send(ok + b"Content-Length: 1024\r\n\r\n" + BODY + forged)
            case "noise":
                await self.send(b"\x00\x01\x02 not http at all\r\n\r\n")
            case "hang-up":
                self.writer.transport.abort()
            case _:
                await self.answer(404)

    async def serve_robots(self) -> None:
        name = self.host.partition(".")[0]
        if name in ROBOTS:
            await self.answer(200, ROBOTS[name])
        elif name.startswith("status-"):
            await self.answer(int(name.removeprefix("status-")))
        elif name in ("packed", "packed-twice"):
            times = 2 if name == "packed-twice" else 1
            body = ROBOTS["deny"]
            for _ in range(times):
                body = gzip.compress(body)
            await self.answer(200, body, Content_Encoding=", ".join(["gzip"] * times))
        elif name == "packed-in-br":
            await self.answer(200, b"\0", Content_Encoding="br")
        elif name == "moved":
            await self.answer(
                301, Location=f"http://deny.test:{self.host.partition(':')[2]}/robots.txt"
            )
        elif name == "far":  # five redirects away
            hops = int(self.path.partition("?")[2] or 5)
            more = f"/robots.txt?{hops - 1}" if hops > 1 else "/forbidding"
            await self.answer(302, Location=more)
        elif name == "circle":
            await self.answer(302, Location="/robots.txt")
        elif name == "inward":
            await self.answer(302, Location="http://10.0.0.1/robots.txt")
        elif name == "hung":
            await asyncio.sleep(60)
        elif name == "late":
            await asyncio.sleep(1.0)
            await self.answer(200)
        elif name == "endless":
            head = b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /ok/1\n"
            await self.repeat(head, b"Disallow: /other\n" * 1000)
        elif name == "dropping":
            self.writer.transport.abort()
        else:
            await self.answer(404)


def serve(state: State) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                start, *lines = head.rstrip().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                path, host = start.split(" ")[1], headers.get("host", "")
                state.seen[host + path] += 1
                came = {"time": time.monotonic(), "path": path, "headers": headers}
                state.requests.append({**came, "to": writer.get_extra_info("sockname")[0]})
                for name in (host, ""):  # "": all together
                    state.busy[name] += 1
                    state.most_busy[name] = max(state.most_busy[name], state.busy[name])
                exchange = Exchange(path, host, writer, state)
                try:
                    await exchange.behave()
                finally:
                    state.busy.subtract([host, ""])
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            pass  # clients that hang up early are the point of these tests
        finally:
            writer.transport.abort()

    return connection


def control(
    state: State,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"reset" in await reader.readuntil(b"\r\n\r\n"):
            state.reset()
        body = json.dumps(state.log()).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    return connection


def contexts(folder: Path) -> dict[str, ssl.SSLContext]:
    """TLS as it should be and as it should not; the names point to this server in the tests."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    past = datetime(2020, 1, 2, tzinfo=UTC)
    certificates = {
        "good": authority.issue_cert("good.test"),
        "wrong_name": authority.issue_cert("other.test"),
        "expired": authority.issue_cert("good.test", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=past),
        "unknown": stranger.issue_cert("good.test"),
    }  # fmt: skip
    found = {}
    for name, certificate in certificates.items():
        found[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(found[name])
    return found


async def main(folder: Path) -> None:
    state = State()
    plain = await asyncio.start_server(serve(state), HOSTS[0], 0)
    port = plain.sockets[0].getsockname()[1]
    ports = {"plain": port}
    servers = [plain, await asyncio.start_server(serve(state), HOSTS[1], port)]
    for name, context in contexts(folder).items():
        servers.append(await asyncio.start_server(serve(state), HOSTS[0], 0, ssl=context))
        ports[name] = servers[-1].sockets[0].getsockname()[1]
    servers.append(await asyncio.start_server(control(state), HOSTS[0], 0))
    ports["control"] = servers[-1].sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    bomb()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
