"""Name look-ups: each name is asked once in a while, failures too, in threads that hold up nobody else."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from webdistill.web.memo import Memo

KEPT = 600.0  # seconds an answer is good for,
KEPT_FAILURE = 60.0  # and a failure
NAMES = 10_000  # names remembered
THREADS = 64  # look-ups at once: one that hangs does so for up to half a minute


class SystemNames(AbstractResolver):
    """The system's resolver in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The host's addresses. Raises OSError when there are none."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, _look_up, host, family
        )
        return [_result(host, port, address, kind, proto) for kind, _, proto, _, address in found]

    async def close(self) -> None:
        """Start no further look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Names(AbstractResolver):
    """A resolver with a memory in front of another one, which it owns."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner
        self._memo = Memo(self._find, _price, NAMES)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The host's addresses of both families. Raises OSError when there are none."""
        found = await self._memo.get(host)
        if isinstance(found, str):
            raise OSError(found)
        return [{**result, "port": port} for result in found]

    async def close(self) -> None:
        """Close the inner resolver, too."""
        await self._memo.close()
        await self._inner.close()

    async def _find(self, host: str) -> list[ResolveResult] | str:
        try:
            found = await self._inner.resolve(host, 0, socket.AF_UNSPEC)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot encode
            return f"{type(error).__name__}: {error}"
        return found or "no address"


def _price(found: list[ResolveResult] | str) -> tuple[float, int]:
    return (KEPT_FAILURE if isinstance(found, str) else KEPT), 1


def _look_up(host: str, family: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    return list(socket.getaddrinfo(host, 0, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG))


def _result(
    host: str, port: int, address: tuple[object, ...], family: int, proto: int
) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address[0]),
        port=port,
        family=family,
        proto=proto,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
