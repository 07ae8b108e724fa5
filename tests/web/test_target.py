"""What is asked for is what is listed: escapes stay, missing ones are added (K3), and hosts are judged (F1)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from webdistill.web.normalise import normalise_url
from webdistill.web.target import fault, join_url, parse_url, redirect_fault

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a.example", "http://a.example/"), ("http://me:pw@a.example/x#y", "http://a.example/x"),
        ("HTTPS://A.example:443/", "https://a.example/"), ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://a.example/ä?ö", "http://a.example/%C3%A4?%C3%B6"),
    ],
)  # fmt: skip
def test_parse_url(text: str, expected: str) -> None:
    assert str(parse_url(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "//a.example/",
        "ftp://a.example/",
        "http:///",
        "http://a.example:0/",
        "http://a.example/\n",
        "http:\\x",
        "http://][@",
    ],
)
def test_what_is_no_url_to_ask_for(text: str) -> None:
    assert parse_url(text) is None


@pytest.mark.parametrize(
    "host",
    [
        "[::１]", "[::127。0。0。1]", "[::ffff:１]", "[١::1]", "[:]", "[]", "[::1", "::1", "[::1]x", "[1.2.3.4]",
        "[v1.a]", "[::1%]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[::1%0a]", "[::1]:３", "[[::1]]", "[::1]:80:80",
        "a.example:８０", "a.example:99999", "a.example:-1", "a.example:+1", "a.example:1_0", "a.example:x",
        "%31%32%37.0.0.1", "%00", "a%2fb", "a.example%20", "a\0b", "a\ud800.example", "a\udcff", "xn--a", "xn--\udcff",
        "\u200d.example", "a℀b", ".", "..", "a..b", f"{'a' * 64}.example", f"{'b.' * 130}example", "a*b", "a,b",
    ],
)  # fmt: skip
def test_no_host_that_cannot_be_asked_for(host: str) -> None:
    assert parse_url(f"http://{host}/cat.jpg") is None
    assert parse_url(f"https://me:pw@{host}") is None
    assert join_url(URL("https://a.example/b"), f"//{host}/cat.jpg") is None


@pytest.mark.parametrize(
    "host",
    [
        "a.example", "A.example.", "a_b.example", "bücher.example", "[::1]", "[2606:4700::1111]:8080", "127。0。0。1",
        "a.example:", f"{'a' * 63}.example", "[::ffff:8.8.8.8]", "xn--bcher-kva.example",
    ],
)  # fmt: skip
def test_hosts_that_can_be_asked_for(host: str) -> None:
    url = parse_url(f" http://me:pw@{host}/cat.jpg?a=[#b")
    assert url is not None
    assert parse_url(str(url)) == url


PIECES = (
    "http://", "https://", "HTTP:", "//", "/", "?", "#", "@", ":", "[", "]", "::1", "::", "%25", "%", "%00",
    "%2e", "%zz", "eth0", "127", "0", "1", ".", "。", "．", "１", "٣", "²", "①", "ß", "ü", "℀", "\u200d",
    "\u0300", "\ud800", "\udcff", "\0", "\r", "\n", "\t", " ", "\\", "xn--", "xn--a", "a", "example", "-", "_",
    "*", "v1.", "ffff", "80", "99999", "８０", "1_0", ";", "=", "&", "token=x", "\x7f", "\u2028", "😀", "a" * 64,
    "b." * 130, "..", "localhost", "\ufeff", "\xad", "0x7f",
)  # fmt: skip


def test_whatever_an_address_is_made_of_nothing_raises_and_what_passes_reads_back() -> None:
    dice = random.Random(0)
    base = URL("https://a.example/b")
    passed = 0
    for _ in range(20_000):
        start = dice.choice(["http://", "https://", "http://[", "http://a@", ""])
        text = start + "".join(dice.choices(PIECES, k=dice.randint(0, 9)))
        once = normalise_url(text)
        if parse_url(once) is not None:
            assert normalise_url(once) == once, ascii(text)
        for url in (parse_url(text), parse_url(once), join_url(base, text)):
            if url is not None:
                passed += 1
                assert parse_url(str(url)) == url, ascii(text)
                assert str(URL(str(url), encoded=True)) == str(url)
                assert str(url).isascii()
                assert (
                    URL(f"{url.scheme}://{url.raw_authority}/robots.txt").raw_host == url.raw_host
                )
    assert passed > 1000


def test_where_a_location_leads() -> None:
    base = URL("https://a.example/b/c?d")
    assert str(join_url(base, "e")) == "https://a.example/b/e"
    assert str(join_url(base, "//other.example/#x")) == "https://other.example/"
    assert str(join_url(base, "http://me:pw@b.example/")) == "http://b.example/"
    for location in ("", "mailto:me@example.org", "data:,x", "http://[", "\x00", "//][@"):
        assert join_url(base, location) is None


LISTED = [  # path and query as a list has them -> as they are asked for
    ("/thumbor/sig=/300x300/http%3A%2F%2Fcdn.example%2Fa%2Fb.jpg", ""),
    ("/quote%27s.jpg", ""), ("/quote's.jpg", ""), ("/café.jpg", "/caf%C3%A9.jpg"), ("/caf%e9.jpg", ""),
    ("/a b.jpg", "/a%20b.jpg"), ("/a%20b.jpg", ""), ("/a+b.jpg?c+d=e%20f g", "/a+b.jpg?c+d=e%20f%20g"),
    ("/crop.jpg?crop=2669,1999,x0,y0&width=80", ""), ("/crop.jpg?crop=2669%2C1999%2Cx0%2cy0&w=80", ""),
    ("/plus%2Bsign.jpg?b=x%2By", ""), ("/q.jpg?a=1%2F2&b=%3A%40%28%29%5B%5D%7C", ""), ("/img.php?a", ""),
    ("/pct%zz.jpg?%", "/pct%25zz.jpg?%25"), ("/100%.jpg?50%2", "/100%25.jpg?50%252"), ("/%E2%9", "/%E2%259"),
    ("//double//slash.jpg", ""), ("/(a)@b:c;d=e!$*~.jpg?f=/?:@!$'()*,;", ""), ("/?a", ""), ("/a?", "/a"),
    ("/a|b[c]^{d}`\"<e>.jpg?f|[g]", "/a%7Cb%5Bc%5D%5E%7Bd%7D%60%22%3Ce%3E.jpg?f%7C%5Bg%5D"),
    ("/日本.jpg?q=日", "/%E6%97%A5%E6%9C%AC.jpg?q=%E6%97%A5"), ("?a=1", "/?a=1"), ("/a/./b/../c.jpg", "/a/c.jpg"),
    ("/a/%2e%2E/secret", "/secret"), ("/../../x", "/x"), ("/a/..", "/"), ("/a/.", "/a/"), ("/a/..b/c...", ""),
    ("/%41%7e?%41", ""), ("/a.jpg?b=1&&c&=;&", ""), ("/a%00b", ""), ("/a%252Fb", ""), ("/a.jpg#part?x", "/a.jpg"),
]  # fmt: skip


@pytest.mark.usefixtures("loopback")
def test_an_address_is_asked_for_as_it_is_listed(server: Server, ask: Ask) -> None:
    ask(*(server.url + listed for listed, _ in LISTED), in_turn=True)
    expected = [target or listed for listed, target in LISTED]
    assert [request["path"] for request in server.requests] == expected
    stored = [normalise_url(server.url + path) for path in expected]
    assert stored == [server.url + path for path in expected], "nor does search spell it anew"


@pytest.mark.usefixtures("loopback")
def test_a_redirect_is_followed_as_the_server_spells_it(server: Server, ask: Ask) -> None:
    """Also where it sends raw bytes that are no UTF-8: the server knows its own spelling."""
    leads = {  # bytes of Location -> what is asked for
        b"/ok/caf\xe9.jpg": "/ok/caf%E9.jpg", b"/ok/caf\xc3\xa9.jpg": "/ok/caf%C3%A9.jpg",
        b"/ok/a b.jpg": "/ok/a%20b.jpg", b"/ok/%2F%3a?b=%28\xfc": "/ok/%2F%3a?b=%28%FC",
        b"/ok/\xe9\xc3\xa9%2F\x80": "/ok/%E9%C3%A9%2F%80", b"x.jpg": "/raw/x.jpg", b"../ok/%27": "/ok/%27",
        b"  /ok/y ": "/ok/y", b"/ok/?a=1&b=2#c": "/ok/?a=1&b=2",
    }  # fmt: skip
    for raw, asked in leads.items():
        (reply,) = ask(f"{server.url}/raw/{raw.hex()}")
        assert server.requests[-1]["path"] == asked, (raw, reply)
    port = server.ports["plain"]
    (reply,) = ask(f"{server.url}/raw/{f'//localhost.test:{port}/ok/z'.encode().hex()}")
    assert (reply.status, server.requests[-1]["path"]) == ("ok", "/ok/z")


@pytest.mark.usefixtures("loopback")
def test_what_is_refused_says_why(server: Server, ask: Ask) -> None:
    listed = {
        "ftp://a.example/": "it does not begin with http:// or https://",
        "http://a.example/\\x": "control characters, backslashes or halves of characters are in it",
        "http://[::1": "its host or port is none", "http://a.example:99999/": "its host or port is none",
    }  # fmt: skip
    assert [(r.status, r.detail) for r in ask(*listed)] == [
        ("bad_url", why) for why in listed.values()
    ]
    led = {b"": "no usable Location: there is none",
           b"http://caf\xe9.example/": "no usable Location: its host or port is none",
           b"data:x": "no usable Location: it does not begin with http:// or https://"}  # fmt: skip
    found = ask(*(f"{server.url}/raw/{raw.hex()}" for raw in led))
    assert [(r.status, r.detail) for r in found] == [("bad_redirect", why) for why in led.values()]
    assert fault("http://a.example/") == redirect_fault(URL("http://a.example/"), "/b") == ""
