"""URLs: which ones can be asked for, and one spelling per address, without user info and without secrets.

A stored URL is read by many people. One that needs its signature to be served is asked for without it, and fails:
better than a credential in a ledger.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote_plus, urlsplit, urlunsplit

from yarl import URL

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
USERINFO = (
    re.compile(  # up to the last @ before the path, also where the rest of the URL is nonsense
        r"^([\x00-\x20]*(?:https?:|(?:[a-z][a-z0-9+.-]+:)?[/\\]{2})[/\\]*+)[^/?#]*@", re.IGNORECASE
    )
)
PARTS = re.compile(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
SESSION_IN_PATH = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;]*", re.IGNORECASE)
SECRET = re.compile(  # of a key in lower case without - _ and .
    r".*(?:token|signature|password|passwd|secret|secretkey|privatekey|apikey|accesskey|accesskeyid)"
    r"|sig|hmac|jwt|key|keypairid|authkey|subscriptionkey|googleaccessid|pwd|pass|passphrase|passcode"
    r"|auth|authorization|oauth.*|bearer|credentials?|session|sessionid|sessionkey|sessid|sid|phpsessid|jsessionid"
    r"|xamz.*|xgoog.*"
)
DEFAULT_PORT = {"http": 80, "https": 443}


def normalise_url(text: str) -> str:
    """One spelling per address: lower-case scheme and host, no user info, secrets, default port or fragment.

    What is no well-formed http(s) URL comes back without user info and secrets, for fetch to refuse; a local path stays
    a path.
    """
    text = strip_secrets(text)
    if UNSAFE.search(text) or not SCHEME.match(text):
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return text
    if parts.scheme not in DEFAULT_PORT or not parts.hostname:
        return text
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != DEFAULT_PORT[parts.scheme]:
        host = f"{host}:{port}"
    return urlunsplit(SplitResult(parts.scheme, host, parts.path or "/", parts.query, ""))


def strip_secrets(text: str) -> str:
    """The URL without user info and without keys such as `token`, `signature`, `x-amz-*`, `session`; all else as it is.

    A local path stays as it is, and so do keys of a single vague letter (`s` signs on one site and scales on another).
    """
    text = USERINFO.sub(r"\1", text.strip())
    if not SCHEME.match(text) and text[:2] not in ("//", "\\\\"):
        return text
    path, query, fragment = PARTS.fullmatch(text).groups()  # type: ignore[union-attr]  # matches everything
    path = SESSION_IN_PATH.sub("", path)
    for mark, keys in (("?", query), ("#", fragment)):
        if keys is not None:
            kept = _without_secrets(keys)
            path += mark + kept if kept or not keys else ""
    return path


def parse_url(text: str) -> URL | None:
    """An absolute http(s) URL without user info and fragment, or None."""
    if CONTROL.search(text):
        return None
    try:
        url = URL(text)
        if url.scheme not in DEFAULT_PORT or not url.host or not url.port:
            return None
        return url.with_user(None).with_fragment(None) if "@" in text or "#" in text else url
    except (ValueError, TypeError, IndexError):  # IndexError: yarl, of "//][@"
        return None


def join_url(base: URL, location: str) -> URL | None:
    """Where a Location header leads, or None if not to an http(s) URL."""
    if not location or CONTROL.search(location):
        return None
    try:
        return parse_url(str(base.join(URL(location))))
    except (ValueError, TypeError, IndexError):
        return None


def _without_secrets(keys: str) -> str:
    """A query without the pairs whose key is a secret's; separators, order and escapes of the others stay."""
    pairs = re.split(r"([&;])", keys)
    kept = ""
    for separator, pair in zip(["", *pairs[1::2]], pairs[::2], strict=True):
        key = re.sub(r"[-_.\s]", "", unquote_plus(pair.partition("=")[0]).lower())
        if not SECRET.fullmatch(key):
            kept += (separator if kept else "") + pair
    return kept
