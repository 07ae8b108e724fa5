"""F6: /.well-known/tdmrep.json is asked for once per origin, after robots.txt, and obeyed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from webdistill.web.tdmrep import PLACE, reserved
from webdistill.web.usage import AGENT

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server


def may_use(listed: object, path: str) -> bool:
    rules = reserved(json.dumps(listed).encode())
    return rules is None or rules.can_fetch(f"http://a.example{path}", AGENT)


@pytest.mark.parametrize(
    ("location", "path", "reserves"),
    [
        ("/", "/a/b.jpg", True),
        ("/a", "/a/b.jpg", True),
        ("/a", "/b/a.jpg", False),
        ("/*.jpg$", "/a/b.jpg", True),
        ("/*.jpg$", "/a/b.jpg?x=1", False),
        ("*.jpg", "/a/b.jpg", True),
        ("a/", "/a/b.jpg", True),
        ("https://a.example/a/", "/a/b.jpg", True),
        ("/a#b", "/a/b.jpg", False),
        ("/x\nAllow: /", "/a/b.jpg", True),
        (None, "/a/b.jpg", True),
    ],
)
def test_locations_are_patterns(location: object, path: str, reserves: bool) -> None:
    assert may_use([{"location": location, "tdm-reservation": 1}], path) is not reserves
    assert may_use([{"location": location, "tdm-reservation": 0}], path)


def test_the_longest_location_counts_and_of_equal_ones_the_reservation() -> None:
    listed = [
        {"location": "/", "tdm-reservation": 1},
        {"location": "/open/", "tdm-reservation": 0},
        {"location": "/open/not/", "tdm-reservation": "1"},
        {"location": "/open/not/", "tdm-reservation": 0},
    ]
    for order in (listed, listed[::-1]):
        paths = ("/x", "/open/x", "/open/not/x")
        assert [may_use(order, path) for path in paths] == [False, True, False]


def test_keys_are_spelt_as_the_headers_are() -> None:
    for key in ("TDM-Reservation", "tdm_reservation"):
        listed = [{"Location": "/a/", key: 1}]
        assert [may_use(listed, path) for path in ("/a/x", "/b")] == [False, True]


def test_a_location_that_is_no_text_reserves_the_whole_site() -> None:
    found = reserved(b'[{"location": "/\\ud800", "tdm-reservation": 1}]')
    assert found is not None
    assert not found.can_fetch("/x", "*")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_a_lone_entry_in_another_encoding_is_one(encoding: str) -> None:
    found = reserved('{"location": "/é", "tdm-reservation": 1}'.encode(encoding))
    assert found is not None
    assert not found.can_fetch("http://a.example/%C3%A9", "*")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1, null]", b"\xff", b"[" * 100_000, b'{"a": 1}', b'[{"location": "/"}]']
)  # fmt: skip
def test_what_is_no_such_list_reserves_nothing(data: bytes) -> None:
    assert reserved(data) is None


@pytest.mark.usefixtures("loopback")
def test_reserved_images_are_not_asked_for(server: Server, ask: Ask) -> None:
    cases = [  # host, path, status, opt_out
        ("reserved", "/ok/1", "opted_out_header", "tdmrep.json: 1"),
        ("partly", "/ok/mine/1", "opted_out_header", "tdmrep.json: 1"),
        ("partly", "/ok/mine/free", "ok", ""),
        ("partly", "/ok/2", "ok", ""),
        ("garbage", "/ok/3", "ok", ""),
        ("none", "/ok/4", "ok", ""),
        ("deny", "/ok/5", "robots", ""),
    ]
    found = ask(*(server.at(f"{host}.test") + path for host, path, *_ in cases), robots=True)
    assert [(one.status, one.opt_out) for one in found] == [tuple(case[2:]) for case in cases]
    asked = server.asked
    assert (asked["/ok/1"], asked["/ok/mine/1"], asked["/ok/5"]) == (0, 0, 0)
    assert asked[PLACE] == 4, "once per origin, but not where robots.txt forbids it"
    assert asked["/robots.txt"] == 5


@pytest.mark.usefixtures("loopback")
def test_it_is_not_asked_for_without_manners(server: Server, ask: Ask) -> None:
    assert ask.statuses(server.at("reserved.test") + "/ok/1") == ["ok"]
    assert server.asked[PLACE] == 0
