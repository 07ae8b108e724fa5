"""Which IP addresses a crawler may connect to: public unicast, seen through every tunnel and mapping.

The standard library's `is_global` alone calls 64:ff9b::7f00:1 (NAT64 of 127.0.0.1), 2002:7f00:1:: (6to4) and
multicast global, and differs between versions of Python.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
UNICAST_V6 = IPv6Network("2000::/3")
REFUSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",
        "2001:db8::/32",
        "2620:4f:8000::/48",
        "3fff::/20",
    )  # Teredo is in 2001::/23
)
NAT64 = IPv6Network("64:ff9b::/96")
SIX_TO_FOUR = IPv6Network("2002::/16")
MAPPED = IPv6Network("::ffff:0:0/96")


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """A canonical literal, or None; 127.1, 0x7f000001, 2130706433 and scoped addresses are none."""
    for kind in (IPv4Address, IPv6Address):
        try:
            address = kind(text)
        except (AddressValueError, ValueError):
            continue
        return None if isinstance(address, IPv6Address) and address.scope_id else address
    return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the packets would reach a public unicast host."""
    if isinstance(address, IPv4Address):
        return (
            not any(address in net for net in REFUSED_V4)
            and address.is_global
            and not address.is_multicast
        )
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    return address in UNICAST_V6 and not any(address in net for net in REFUSED_V6)


def is_loopback(address: IPv4Address | IPv6Address) -> bool:
    """127.0.0.0/8 or ::1, as they are."""
    return address.is_loopback and (isinstance(address, IPv4Address) or address == IPv6Address(1))


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if address in MAPPED or address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None
