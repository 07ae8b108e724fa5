"""Cookies that the answers of one chain of redirects set: sent along it, and forgotten at its end.

Some servers hand an image out only to who brings the cookie back. None is kept from one URL to the next: nobody is
recognised.
"""

from __future__ import annotations

import aiohttp
from yarl import URL

LONGEST = 8_192  # characters of the header


class Cookies:
    """Of one chain; domain, path and `Secure` are heeded, values come back as they were set."""

    def __init__(self) -> None:
        self._jar: aiohttp.CookieJar | None = None
        self._spelt: dict[tuple[str, str], str] = {}  # name and value -> the value with its quotes

    def hear(self, response: aiohttp.ClientResponse) -> None:
        """Keep what an answer sets."""
        if response.cookies:
            self._jar = self._jar or aiohttp.CookieJar(
                unsafe=True, quote_cookie=False
            )  # hosts may be numbers
            for one in response.cookies.values():
                self._spelt[one.key, one.value] = one.coded_value
            self._jar.update_cookies(response.cookies, response.url)

    def header(self, url: URL) -> dict[str, str]:
        """The header for the next request, if there is one to send."""
        if self._jar is None:
            return {}
        found = self._jar.filter_cookies(url).values()
        text = "; ".join(
            f"{one.key}={self._spelt.get((one.key, one.value), one.value)}" for one in found
        )
        return {"Cookie": text} if 0 < len(text) <= LONGEST else {}
