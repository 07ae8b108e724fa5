"""F6: headers that say no are obeyed and told, before the body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from webdistill.web.optout import opt_out

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("noai", "noai"), ("noimageai", "noimageai"), ("noindex", "noindex"), ("none", "none"),
        ("NoAI, NoImageAI", "noai"), ("nofollow,noindex", "noindex"), (" all , noimageindex", "noimageindex"),
        ("webdistill: noai", "noai"), ("WebDistill: nofollow, noindex", "noindex"), ("*: noai", "noai"),
        ("otherbot: noindex, webdistill: noai", "noai"), ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", "noai"),
        ("max-snippet: 20, noindex", "noindex"), ("all", ""), ("", ""), ("nofollow, noarchive", ""),
        ("googlebot: noindex", ""), ("otherbot: nofollow, noindex", ""), ("noairplanes", ""), ("index, follow", ""),
        ("max-image-preview: none", ""), (",,:,", ""), ("noai noimageai", "noai"), ("nofollow; noindex", "noindex"),
        ('"noai"', "noai"), ("robots: noai", "noai"), ("webdistill/0.1: noindex", "noindex"),
        ("googlebot: noindex nofollow", ""), ("'noai'", "noai"), ("rating: adult, noai", "noai"),
        ("unavailable_after: Wed, 25 Jun 2010 15:00:00 GMT, noai", "noai"),
        ("unavailable_after: Wednesday, 25-Jun-10 15:00:00 GMT, noai", "noai"),
        ("googlebot: unavailable_after: Wed, 25 Jun 2010 15:00:00 GMT, noindex", ""),
    ],
)  # fmt: skip
def test_x_robots_tag(value: str, word: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"x-robots-tag": value}))
    assert opt_out(headers) == (f"X-Robots-Tag: {word}" if word else "")


@pytest.mark.parametrize(
    ("value", "refuses"),
    [
        ("1", True),
        (" 1 ", True),
        ('"1"', True),
        ("1, 1", True),
        ("?1", True),
        ("True", True),
        ("?0", False),
        ("0", False),
        ("10", False),
        ("", False),
    ],
)
def test_tdm_reservation(value: str, refuses: bool) -> None:
    headers = CIMultiDictProxy(CIMultiDict({"TDM-Reservation": value}))
    assert opt_out(headers) == ("tdm-reservation: 1" if refuses else "")


def test_any_of_several_headers_counts() -> None:
    several = CIMultiDict(
        [("X-Robots-Tag", "googlebot: noindex"), ("X-Robots-Tag", "noai"), ("TDM-Reservation", "1")]
    )
    assert opt_out(CIMultiDictProxy(several)) == "X-Robots-Tag: noai"


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize("robots", [False, True])
def test_an_image_that_is_opted_out_is_not_taken(server: Server, ask: Ask, robots: bool) -> None:
    paths = {
        "/tag/noai": "X-Robots-Tag: noai", "/tags": "X-Robots-Tag: noai", "/reserved/1": "tdm-reservation: 1",
        f"/tag/{quote('webdistill: noindex')}": "X-Robots-Tag: noindex",
    }  # fmt: skip
    found = ask(*(server.url + path for path in paths), robots=robots)
    assert [(r.status, r.http_status, r.data, r.opt_out) for r in found] == [
        ("opted_out_header", 200, b"", header) for header in paths.values()
    ]
    free = ("/tag/all", f"/tag/{quote('googlebot: noindex')}", "/reserved/0")
    assert ask.statuses(*(server.url + path for path in free), robots=robots) == ["ok"] * 3


@pytest.mark.usefixtures("loopback")
def test_a_redirect_may_refuse_but_an_error_page_stays_an_error(server: Server, ask: Ask) -> None:
    found = ask(*(f"{server.url}/tagged/{code}" for code in (302, 404, 500)))
    assert [r.status for r in found] == ["opted_out_header", "not_found", "http_error"]
    assert server.asked["/ok"] == 0
