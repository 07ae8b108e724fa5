"""F1: no request goes to an address that is not public, however it is spelled."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from webdistill.web.addresses import is_loopback, is_public, parse

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

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
    "unix:///run/x.sock", "\x7f", "http://a b/", "http://127.0.0.1\\@example.org/", "http://127.0.0.1\t/", "http://[]/",
]  # fmt: skip
REFUSED = {"not_public", "bad_url", "dns_error"}


@pytest.mark.usefixtures("no_loopback")
@pytest.mark.parametrize("robots", [False, True])
def test_no_spelling_reaches_a_private_address(server: Server, ask: Ask, robots: bool) -> None:
    port = server.ports["plain"]
    ask.names.answers |= {"127.0.0.1.": [["127.0.0.1"]]} | {
        name: [["127.0.0.1", "::1"]] for name in ("localhost", "localhost.")
    }
    urls = [f"http://{host}:{port}/ok" for host in SPELLINGS]
    urls += [text.replace("127.0.0.1/", f"127.0.0.1:{port}/") for text in NONSENSE]
    found = dict(zip(urls, ask.statuses(*urls, robots=robots), strict=True))
    assert {url: status for url, status in found.items() if status not in REFUSED} == {}
    assert server.connections == 0
    assert len(SPELLINGS) >= 60


@pytest.mark.usefixtures("no_loopback")
def test_the_systems_resolver_does_not_help_either(server: Server, ask: Ask) -> None:
    ask.names = None
    urls = [
        f"http://{host}:{server.ports['plain']}/ok"
        for host in ("localhost", "localhost.", "127.0.0.1.")
    ]
    assert set(ask.statuses(*urls)) <= REFUSED
    assert server.connections == 0


@pytest.mark.usefixtures("loopback")
def test_the_allowance_is_for_loopback_only(server: Server, ask: Ask) -> None:
    hosts = [
        "10.0.0.1", "169.254.169.254", "[fd00::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[64:ff9b::7f00:1]",
    ]  # fmt: skip
    assert ask.statuses(server.url + "/ok") == ["ok"]
    assert set(ask.statuses(*(f"http://{host}/" for host in hosts))) == {"not_public"}


@pytest.mark.usefixtures("no_loopback")
def test_an_api_on_a_private_address_is_not_asked(server: Server, ask: Ask) -> None:
    import asyncio

    async def main() -> str:
        client = ask.client()
        await client.open()
        reply = await client.get_json(server.url + "/api", {"q": "cat"})
        await client.close()
        return reply.status

    assert asyncio.run(main()) == "not_public"
    assert server.connections == 0


def test_public_addresses_pass() -> None:
    public = (
        "8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
    )  # fmt: skip
    for text in public:
        assert is_public(ip_address(text)), text
    assert parse("2130706433") is None
    assert parse("127.1") is None
    assert parse("fe80::1%lo") is None
    assert is_loopback(ip_address("127.0.0.2"))
    assert not is_loopback(ip_address("::ffff:127.0.0.1"))
