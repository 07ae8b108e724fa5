"""A web server in a process of its own: `python fetch_server.py LOG`; it says its port and ends with its stdin.

Every request is a line `host path` in LOG before it is answered, and its moment a line in LOG.times. /kind/N tells how
to answer; N is the picture.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
import time
import zlib
from pathlib import Path

SIDE = 12
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
ROBOTS = {"127.0.0.2": (200, b"User-agent: *\nDisallow: /\n"), "127.0.0.3": (500, b"")}
RESERVED = {"127.0.0.4": b'[{"location": "/reserved/", "tdm-reservation": 1}]'}


def png(number: int, side: int = SIDE) -> bytes:
    """A picture of noise, another one for each number."""
    dice = random.Random(number)
    rows = b"".join(b"\0" + dice.randbytes(3 * side) for _ in range(side))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


class Server:
    """Answers, and remembers what it was asked."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("a", buffering=1)
        self._times = log.with_name(f"{log.name}.times").open("a", buffering=1)
        self._seen: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, any number of requests."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                path = lines[0].split(" ")[1]
                named = next(line for line in lines if line.lower().startswith("host:"))
                host = named.split(":")[1].strip()
                self._times.write(f"{time.monotonic()}\n")
                self._log.write(f"{host} {path}\n")
                status, body, header = await self._answer(host, path)
                writer.write(
                    f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode()
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, host: str, path: str) -> tuple[int, bytes, str]:
        if path == "/robots.txt":
            return *ROBOTS.get(host, (404, b"")), ""
        if path == "/.well-known/tdmrep.json":
            return (200, RESERVED[host], "") if host in RESERVED else (404, b"", "")
        if path.endswith("/ai.txt"):
            return 404, b"", ""
        first = path not in self._seen
        self._seen.add(path)
        _, kind, number, *_ = path.partition("?")[0].split("/")
        match kind:
            case "hang":
                await asyncio.sleep(60)
            case "flaky":
                return 503 if first else 200, b"" if first else png(int(number)), ""
            case "noai":
                return 200, png(int(number)), "X-Robots-Tag: noai\r\n"
            case "large":  # 30,157 bytes
                return 200, png(int(number), side=100), ""
            case "junk":
                return 200, b"<html>", ""
            case "status":
                return int(number), b"", ""
        return 200, png(int(number)), ""


async def main() -> None:
    server = Server(Path(sys.argv[1]))
    first = await asyncio.start_server(server.serve, HOSTS[0], 0)
    port = first.sockets[0].getsockname()[1]
    others = [await asyncio.start_server(server.serve, host, port) for host in HOSTS[1:]]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for listening in (first, *others):
        listening.close()


if __name__ == "__main__":
    asyncio.run(main())
