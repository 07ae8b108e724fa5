"""The hostile server, a resolver that knows only what a test tells it, and a way to ask with a client."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from webdistill.web.client import Client, Manners
from webdistill.web.hosts import Turn
from webdistill.web.reply import Reply

HOSTILE = Path(__file__).with_name("hostile.py")
CONTACT = "me@example.org"
CAP = 50_000


@dataclass
class Server:
    """The process: its ports, and what it saw since the test began."""

    ports: dict[str, int]
    authority: Path

    @property
    def url(self) -> str:
        return self.at("127.0.0.1")

    def at(self, host: str, scheme: str = "http", port: str = "plain") -> str:
        return f"{scheme}://{host}:{self.ports[port]}"

    def control(self, what: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["control"], timeout=20)
        connection.request("GET", what)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    @property
    def connections(self) -> int:
        return int(self.control("/log")["connections"])

    @property
    def requests(self) -> list[dict[str, Any]]:
        return list(self.control("/log")["requests"])

    @property
    def most_busy(self) -> dict[str, int]:
        return dict(self.control("/log")["most_busy"])

    @property
    def asked(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(request["path"] for request in self.requests)


class FixedNames(AbstractResolver):
    """Answers from a table: a name's successive answers, the last one for ever; *.test is 127.0.0.1."""

    def __init__(self, answers: Mapping[str, list[list[str]]] | None = None) -> None:
        self.answers = {name: list(found) for name, found in (answers or {}).items()}
        self.asked: list[str] = []
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        self.asked.append(host)
        await asyncio.sleep(0)
        found = self.answers.get(host, [["127.0.0.1"]] if host.endswith(".test") else [])
        if not found:
            raise OSError(f"{host} is unknown")
        addresses = found.pop(0) if len(found) > 1 else found[0]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=10 if ":" in one else 2, proto=0, flags=0)
            for one in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        self.closed = True


@dataclass
class Ask:
    """Asks for URLs, all at once or `in_turn`, with a client made from the settings given."""

    names: FixedNames = field(default_factory=FixedNames)

    def __call__(self, *urls: str, in_turn: bool = False, **settings: Any) -> list[Reply]:
        async def one(client: Client, url: str) -> Reply:
            async with client.get(url) as reply:
                return reply

        async def everything() -> list[Reply]:
            async with asyncio.timeout(60):
                client = self.client(**settings)
                await client.open()
                try:
                    if in_turn:
                        return [await one(client, url) for url in urls]
                    return list(await asyncio.gather(*(one(client, url) for url in urls)))
                finally:
                    await client.close()

        return asyncio.run(everything())

    def client(self, **settings: Any) -> Client:
        usual = {"timeout": 10.0, "retries": 0, "max_bytes": CAP, "per_host": 64, "delay": 0.0}
        return Client(CONTACT, Manners(**{**usual, "robots": False, **settings}), self.names)

    def statuses(self, *urls: str, **settings: Any) -> list[str]:
        return [reply.status for reply in self(*urls, **settings)]


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("authority")
    with subprocess.Popen(
        [sys.executable, str(HOSTILE), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        yield Server(json.loads(running.stdout.readline()), folder / "authority.pem")
        running.stdin.close()
        running.wait(20)


@pytest.fixture
def server(process: Server) -> Server:
    """The hostile server with an empty log."""
    process.control("/reset")
    return process


@dataclass
class Starts:
    """When each turn at a host began, noted on this side: a busy server logs what comes late."""

    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, host: str, delay: float, server: Server, first: int = 0) -> bool:
        """Whether a request came with each turn, no gap was short, nor all together: what is lost in each adds up."""
        times = self.times[host][first:]
        came = sum(r["headers"]["host"].partition(":")[0] == host for r in server.requests)
        whole = (len(times) - 1) * delay
        least = min(after - before for before, after in itertools.pairwise(times))
        late = 0.1  # seconds between a start and its note
        return (
            came == len(times) + first
            and least >= delay - late
            and times[-1] - times[0] >= whole - late
        )


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    noted, enter = Starts(), Turn.enter

    async def noting(turn: Turn, name: str, delay: float) -> bool:
        begins = await enter(turn, name, delay)
        if begins:
            noted.times[name].append(time.monotonic())
        return begins

    monkeypatch.setattr(Turn, "enter", noting)
    return noted


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")


@pytest.fixture
def no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBDISTILL_ALLOW_LOOPBACK", raising=False)


@pytest.fixture
def ask(process: Server, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Trusts the server's authority only; reading the system's takes as long as many a test."""
    monkeypatch.setenv("SSL_CERT_FILE", str(process.authority))
    return Ask()
