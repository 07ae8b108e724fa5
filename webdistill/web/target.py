"""URLs as they are asked for: which ones can be, and where a redirect leads.

What is listed is asked for: escapes that are there stay (`%2F` is not `/` for a signed image proxy), those that are
missing are added. Only the host is spelled anew, and `.` and `..` are resolved as browsers do.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from urllib.parse import quote

from yarl import URL

from webdistill.web.normalise import DEFAULT_PORT, SCHEME, missing_escapes, without_dots

CONTROL = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # halves of characters are no text
RAW_BYTES = re.compile(r"[\udc80-\udcff]+")  # of a header that is no UTF-8, as Python keeps them
AUTHORITY = re.compile(
    r"(?:[^:/?#]*:)?//(?:[^/?#]*@)?(\[[^\[\]]*\]|[^:\[\]/?#]*)(?::([0-9]*))?(?:[/?#]|$)"
)
PLACE = re.compile(r"[^/?#]*//[^/?#]*([^?#]*)(\?[^#]*)?")  # path and query of an absolute URL
NAME = re.compile(r"(?=.{1,253}\.?$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")  # as DNS has it


def parse_url(text: str) -> URL | None:
    """An absolute http(s) URL without user info and fragment, or None."""
    found = _parse(text)
    return found if isinstance(found, URL) else None


def fault(text: str) -> str:
    """Why `parse_url` says None."""
    found = _parse(text)
    return "" if isinstance(found, URL) else found


def join_url(base: URL, location: str) -> URL | None:
    """Where a Location header leads, or None if not to an http(s) URL."""
    found = _parse(_absolute(base, location))
    return found if isinstance(found, URL) else None


def redirect_fault(base: URL, location: str) -> str:
    """Why `join_url` says None."""
    found = _parse(_absolute(base, location))
    why = "" if isinstance(found, URL) else found if location else "there is none"
    return why and f"no usable Location: {why}"


def _absolute(base: URL, location: str) -> str:
    """The reference resolved (RFC 3986, 5.2) but for dots; bytes that are no UTF-8 are escaped, each for itself."""
    text = RAW_BYTES.sub(lambda raw: quote(raw[0], errors="surrogateescape"), location.strip(" "))
    if not text or SCHEME.match(text) or re.match(r"[A-Za-z]:", text):
        return text
    if text.startswith("//"):
        return f"{base.scheme}:{text}"
    origin = f"{base.scheme}://{base.raw_authority}"
    if text.startswith("/"):
        return origin + text
    if text.startswith("?"):
        return origin + base.raw_path + text
    if text.startswith("#"):
        return f"{origin}{base.raw_path_qs}"
    return f"{origin}{base.raw_path.rpartition('/')[0]}/{text}"


def _parse(text: str) -> URL | str:
    """The URL, or why it cannot be asked for."""
    text = text.strip(" ")
    if CONTROL.search(text):
        return "control characters, backslashes or halves of characters are in it"
    try:
        url = URL(text)
        if url.scheme not in DEFAULT_PORT:
            return "it does not begin with http:// or https://"
        if not url.port or not _has_host(text, url):
            return "its host or port is none"
        place = PLACE.match(text)
        assert place is not None, "an authority was found"
        path, query = missing_escapes(place[1]), missing_escapes(place[2] or "", query=True)
        host = f"[{url.raw_host}]" if ":" in (url.raw_host or "") else url.raw_host
        port = "" if url.port == DEFAULT_PORT[url.scheme] else f":{url.port}"
        whole = f"{url.scheme}://{host}{port}{without_dots(path) or '/'}{query}"
        return URL(whole, encoded=True)
    except (ValueError, TypeError, IndexError):  # IndexError: yarl, of "//][@"
        return "its host or port is none"


def _has_host(text: str, url: URL) -> bool:
    """Whether the host is one that can be asked for: an IPv6 address in brackets without a zone, or a name of the DNS.

    yarl takes what stands in brackets and is no address for a name, and loses the brackets: of digits and dots that are
    not ASCII it makes a URL whose own spelling it cannot read.
    """
    found, host = AUTHORITY.match(text), url.raw_host or ""
    if found is None or not url.host:  # which raises ValueError where IDNA cannot read it
        return False
    if not found[1].startswith("["):
        return NAME.fullmatch(host) is not None
    return IPv6Address(found[1][1:-1]).scope_id is None
