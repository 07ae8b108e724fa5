"""URLs as they are stored: one spelling per address, without user info and without secrets.

A stored URL is read by many people. One that needs its signature to be served is asked for without it, and fails:
better than a credential in a ledger. Path and query stay as they were listed, for that is what the server knows;
`sameness` tells which spellings mean one address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, unquote_plus, unquote_to_bytes, urlsplit

from yarl import URL

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
SPACE = re.compile(r"[\x20]")
DOUBLED = re.compile(r"(?:https?://)+(?=https?://)", re.IGNORECASE)  # by programs that add one
NO_SCHEME = re.compile(r"//(?=[^/\\])")
AMPERSAND = re.compile(r"&(?:amp|#0*38|#x0*26);", re.IGNORECASE)
ENTITY = re.compile(r"&(?:(quot|apos|lt|gt)|#([0-9]{1,7})|#x([0-9a-f]{1,6}));", re.IGNORECASE)
NAMED = {"quot": '"', "apos": "'", "lt": "<", "gt": ">"}
USERINFO = (
    re.compile(  # up to the last @ before the path, also where the rest of the URL is nonsense
        r"^([\x00-\x20]*(?:https?:|(?:[a-z][a-z0-9+.-]+:)?[/\\]{2})[/\\]*+)[^/?#]*@", re.IGNORECASE
    )
)
# The same of an address within an address, as proxies and archives have it; as it stands, or escaped.
INNER_USERINFO = re.compile(r"(:(?://|\\\\))[^/?#&;\s:@]*:[^/?#&;\s@]*@")
ESCAPED_USERINFO = re.compile(r"(%3a%2f%2f)(?:(?!%(?:2f|3f|40))[^/?#&])*%40", re.IGNORECASE)
ESCAPED_PAIR = re.compile(
    r"(%3f)?(?(1)|%(?:26|3b))((?:(?!%(?:3d|26|3f|3b|2f))[^/?#&;=]){1,80})(?:%3d|=)(?:(?!%(?:26|23))[^?#&;])*",
    re.IGNORECASE,
)
PARTS = re.compile(r"([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
WHOLE = re.compile(r"[^/?#]*//[^/?#]*([^?#]*)(\?[^#]*)?", re.DOTALL)
SESSION_IN_PATH = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;]*", re.IGNORECASE)
SECRET = re.compile(  # of a key in lower case without - _ and .
    r".*(?:token|signature|password|passwd|secret|secretkey|privatekey|apikey|accesskey|accesskeyid)"
    r"|.*sig|hmac|hdn(?:ea|ts|tl)|jwt|key|appkey|keypairid|authkey|subscriptionkey|googleaccessid|pwd|pass|passphrase|passcode"
    r"|auth|authorization|oauth.*|bearer|credentials?|session|sessionid|sessionkey|sessid|sid|phpsessid|jsessionid"
    r"|xamz.*|xgoog.*"
)
TRACKING = re.compile(  # keys that say where a reader came from, never which file is meant
    r"(?:utm|mtm|pk|piwik|matomo|hsa)_.*|[a-z]+clid|msclkid|s_kwcid|gclsrc|[gw]braid|igsh(?:id)?|mc_[ce]id|mkt_tok"
    r"|li_fat_id|_ga|_gl|_hsenc|_hsmi|_openstat|vero_id|srsltid|wprov",
    re.IGNORECASE,
)
TRACKED = re.compile(r"[_%]|clid|msclkid|gclsrc|braid|igsh|srsltid|wprov", re.IGNORECASE)
LEGAL = r"A-Za-z0-9\-._~!$&'()*+,;=:@/"  # RFC 3986: pchar and /
MISSING = re.compile(rf"%(?![0-9A-Fa-f]{{2}})|[^%{LEGAL}]+")
MISSING_IN_QUERY = re.compile(rf"%(?![0-9A-Fa-f]{{2}})|[^%?{LEGAL}]+")
ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
DOT = re.compile(r"(?:\.|%2e)", re.IGNORECASE)
DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
DEFAULT_PORT = {"http": 80, "https": 443}


def normalise_url(text: str) -> str:
    """One spelling per address: lower-case scheme and host, no user info, secrets, default port or fragment.

    `//host/x` is a web address, and `&amp;` is an ampersand. What is no well-formed http(s) URL comes back without user
    info and secrets, for fetch to refuse; a local path stays a path.
    """
    text = strip_secrets(web_address(text))
    if UNSAFE.search(text) or not SCHEME.match(text):
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return text
    if parts.scheme not in DEFAULT_PORT or not parts.hostname or SPACE.search(parts.netloc):
        return text
    literal = parts.netloc.rpartition("@")[2].startswith("[")
    host = f"[{parts.hostname}]" if literal else parts.hostname
    if port is not None and port != DEFAULT_PORT[parts.scheme]:
        host = f"{host}:{port}"
    path, query = WHOLE.match(text).groups()  # type: ignore[union-attr]  # it has an authority
    return f"{parts.scheme}://{host}{path or '/'}{query or ''}".rstrip(" ")  # before a fragment


def web_address(text: str) -> str:
    """What a list may mean by an address on the web, with a scheme and without HTML's escapes; all else as it is."""
    text = text.strip()
    if doubled := DOUBLED.match(text):
        text = text[doubled.end() :]
    if scheme := NO_SCHEME.match(text):
        rest = text[scheme.end() :]
        port = re.match(r"[^/?#]*:0*443(?:[/?#]|$)", rest)
        text = f"{'https' if port else 'http'}://{rest}"
    return unescape(text) if SCHEME.match(text) and "&" in text else text


def unescape(text: str) -> str:
    """Without the escapes that HTML needs in an attribute; `&copy=1` is a key and no sign, so the semicolon counts."""
    while text != (once := AMPERSAND.sub("&", text)):  # a list of lists escapes again
        text = once
    return ENTITY.sub(_character, text)


def sameness(url: str) -> str:
    """Equal for all spellings of one address: http or https, any escapes, with or without tracking parameters.

    A query without a key is none: `?`, and `&` at its end or twice.
    For comparing alone, never for asking. A local path is its own.
    """
    scheme, _, rest = normalise_url(url).partition("://")
    if scheme not in DEFAULT_PORT:
        return url.strip()
    host, slash, rest = rest.partition("/")
    path, mark, query = rest.partition("?")
    if mark and TRACKED.search(query):
        query = _without(query, lambda key: TRACKING.fullmatch(unquote_plus(key).strip()))
    query = "&".join(filter(None, query.split("&")))
    path = _one_spelling(without_dots(f"/{path}").removeprefix("/"))
    query = _one_spelling(query, query=True).replace("%20", "+")  # a space in either spelling
    return f"{ascii_host(host)}{slash}{path}{'?' + query if query else ''}"


def ascii_host(name: str) -> str:
    """In lower case, without a dot at the end, as it is asked for where it can be."""
    name = name.lower().rstrip(".")
    try:
        return name if name.isascii() else URL.build(host=name).raw_host or name
    except ValueError:  # a label that IDNA has no spelling for
        return name


def missing_escapes(text: str, *, query: bool = False) -> str:
    """A path, or a query, with those characters escaped that must be; what is escaped stays as it is."""
    missing = MISSING_IN_QUERY if query else MISSING
    return missing.sub(
        lambda found: quote(found[0].encode("utf-8", "surrogatepass"), safe=""), text
    )


def without_dots(path: str) -> str:
    """The path with `.` and `..` resolved, also where they are escaped: a rule of robots.txt must not be passed by."""
    if not DOTS.search(path):
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for at, segment in enumerate(segments):
        plain = DOT.sub(".", segment)
        if plain not in (".", ".."):
            kept.append(segment)
            continue
        if plain == ".." and kept:
            kept.pop()
        if at == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def strip_secrets(text: str) -> str:
    """The URL without user info and without keys such as `token`, `signature`, `x-amz-*`, `session`; all else as it is.

    A local path stays as it is, and so do keys of a single vague letter (`s` signs on one site and scales on another).
    """
    text = USERINFO.sub(r"\1", text.strip())
    if not SCHEME.match(text) and text[:2] not in ("//", "\\\\"):
        return text
    text = INNER_USERINFO.sub(r"\1", text)
    if "%" in text:
        text = ESCAPED_USERINFO.sub(r"\1", text)
        text = ESCAPED_PAIR.sub(_escaped_pair, text)
    path, query, fragment = PARTS.fullmatch(text).groups()  # type: ignore[union-attr]  # matches everything
    path = SESSION_IN_PATH.sub("", path)
    for mark, keys in (("?", query), ("#", fragment)):
        if keys is not None:
            kept = _without(keys, _is_secret)
            path += mark + kept if kept or not keys else ""
    return path


def _escaped_pair(pair: re.Match[str]) -> str:
    return (pair[1] or "") if _is_secret(pair[2]) else pair[0]


def _is_secret(key: str) -> bool:
    """Of `token`, and of the forms' `token[]` and `user[token]`."""
    name = re.sub(r"[-_.\s]", "", unquote_plus(key).lower())
    return any(SECRET.fullmatch(part) for part in re.split(r"[\[\]]", name) if part)


def _without(keys: str, unwanted: Callable[[str], object]) -> str:
    """A query without the pairs whose key is unwanted; separators, order and escapes of the others stay.

    A second `?` begins a pair: it is a mistake, or the query of an address within this one.
    """
    pairs = re.split(r"([&;?])", keys)
    kept, every = "", True
    for separator, pair in zip(["", *pairs[1::2]], pairs[::2], strict=True):
        if unwanted(pair.partition("=")[0]):
            every = False
        else:
            kept += (separator if kept else "") + pair
    return keys if every else kept


def _character(found: re.Match[str]) -> str:
    """What an escape of HTML stands for; one that could hide a control character stays."""
    name, decimal, hexadecimal = found.groups()
    if name:
        return NAMED[name.lower()]
    number = int(decimal) if decimal else int(hexadecimal, 16)
    visible = 0x20 < number < 0x7F or 0xA0 <= number < 0xD800 or 0xE000 <= number <= 0x10FFFF
    return chr(number) if visible else found[0]


def _one_spelling(text: str, *, query: bool = False) -> str:
    """All escapes undone but for those that keep signs apart, then all made that are needed."""
    if "%" in text:
        kept = b"%&=+;/?#" if query else b"%/?#;"
        text = ESCAPES.sub(lambda found: _decoded(found[0], kept), text)
    return missing_escapes(text, query=query)


def _decoded(escapes: str, kept: bytes) -> str:
    raw = unquote_to_bytes(escapes)
    whole = b"".join(
        b"%%%02X" % byte if byte in kept or byte < 0x21 else bytes([byte]) for byte in raw
    )
    return whole.decode("utf-8", "surrogateescape")
