"""Hosts of one's own network that may be asked although their addresses are not public: none, unless the environment
names them.

    WEBDISTILL_ALLOW_HOSTS="images.corp.example, *.lab.example, 10.20.0.0/16, localhost, ::1"

A name means that name alone, at whatever private or loopback address it has; never at a link-local one, where clouds
serve credentials. A network means every host in it, under every name: then a list, or a redirect of a public host, may
lead there. It stands in the environment so that a project that somebody else hands over cannot open a network.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from webdistill.core.errors import UserError
from webdistill.web.addresses import is_loopback, is_public, parse
from webdistill.web.normalise import ascii_host

VARIABLE = "WEBDISTILL_ALLOW_HOSTS"
NAME = re.compile(  # with a letter in its last label: 10.0.0.1-9 is none
    r"(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)*(?=[^.]*[a-z])[a-z0-9_-]{1,63}"
)
WIDEST = {4: 8, 6: 7}  # bits of a network's prefix, at least: nobody owns more
PRIVATE = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "::1/128",
    )
)  # fmt: skip
OWN = f"a host of the own network, which {VARIABLE} allows"
HINT = f"the address is not public; {VARIABLE} in the environment allows hosts of your own network"
asked: ContextVar[str] = ContextVar(
    "asked", default=""
)  # the host of the request that is under way


class NotPublicError(OSError):
    """The connection would go to an address that is not public."""


@dataclass(frozen=True)
class Allowed:
    """What the variable names."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    names: frozenset[str] = frozenset()
    below: tuple[str, ...] = ()  # ".lab.example" for *.lab.example

    def permits(self, host: str, address: IPv4Address | IPv6Address) -> bool:
        """Whether a connection for this host may go to this address, which is not public."""
        plain = getattr(address, "ipv4_mapped", None) or address
        if any(plain in network for network in self.networks):
            return True
        name = ascii_host(host)
        named = name in self.names or name.endswith(self.below)
        return bool(named and any(address in network for network in PRIVATE))


def allowed_hosts(environment: Mapping[str, str]) -> Allowed:
    """What WEBDISTILL_ALLOW_HOSTS names. Raises UserError with the word that is no host and no network."""
    networks: list[IPv4Network | IPv6Network] = []
    names: set[str] = set()
    for word in re.split(r"[\s,;]+", environment.get(VARIABLE, "").strip()):
        bare = re.sub(r"^\[(.*)\](/\d+)?$", r"\1\2", word)
        name = ascii_host(bare)
        if not word:
            continue
        if re.fullmatch(r"[0-9./]+|.*:.*|.*/.*", bare):
            networks.append(_network(word, bare))
        elif NAME.fullmatch(name):
            names.add(name)
        else:
            raise _wrong(word, "is neither a host nor a network")
    below = tuple(name.removeprefix("*") for name in names if name.startswith("*."))
    return Allowed(tuple(networks), frozenset(name for name in names if name[0] != "*"), below)


class Door:
    """Makes sockets; called with the very address that is about to be connected to, of every connection."""

    def __init__(self, allowed: Allowed, *, loopback: bool) -> None:
        self._allowed = allowed
        self._loopback = loopback  # for tests
        self.own: set[str] = (
            set()
        )  # hosts that were let through because the environment allows them

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        """Raises NotPublicError."""
        family, kind, protocol, _, address = info
        target = parse(str(address[0]))
        if target is None or not (is_public(target) or (self._loopback and is_loopback(target))):
            host = asked.get()
            if target is None or not self._allowed.permits(host, target):
                raise NotPublicError(HINT)
            self.own.add(host)
        return socket.socket(family, kind, protocol)


def _network(word: str, text: str) -> IPv4Network | IPv6Network:
    try:
        found = ip_network(text)
    except ValueError as error:
        why = "has bits of a host set" if "host bits" in str(error) else "is no network"
        raise _wrong(word, why) from None
    if found.prefixlen < WIDEST[found.version]:
        raise _wrong(word, f"is wider than /{WIDEST[found.version]}")
    return found


def _wrong(word: str, why: str) -> UserError:
    return UserError(
        f"{VARIABLE}: {word!r} {why}; name hosts such as images.corp.example or *.corp.example, and networks such as "
        "10.20.0.0/16 or 127.0.0.1, without ports"
    )
