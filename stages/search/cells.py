"""What the cells of other people's lists say: texts, addresses, digests, scores."""

from __future__ import annotations

import base64
import binascii
import math
import re

# What comes along when an address is copied out of a page or a chat: signs that nobody sees, and marks around it.
UNSEEN = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
BLANK = "".join(c for c in map(chr, range(0x10000)) if c.isspace() or re.match(f"[{UNSEEN}]", c))
BEFORE, BEHIND = (
    BLANK + "\u201c\u201d\u201e\u201f" + marks for marks in ("\u00ab\u2039", "\u00bb\u203a")
)
# An address of the web, also one that leaves the protocol to the page it stood on.
WEB = re.compile(rf"[\s{UNSEEN}]*(?:https?://|//[^\s/]+\.[^\s/])", re.IGNORECASE)
# One that stands in brackets or quotes: `cat.jpg (https://...)` of Airtable, Markdown, HTML, formulas.
WITHIN = re.compile(
    r"""[("'](https?://[^\s"'<>()]+(?:\([^\s"'<>()]*\)[^\s"'<>()]*)*)(?:[)"']|\s+["'(])""",
    re.IGNORECASE,
)
# Between two addresses in one cell: whatever people put there, before an address that begins anew.
# Each run of signs is tried from its beginning alone, so that a long one costs no more than its length.
BETWEEN = re.compile(
    r"""(?<!['"\]])['"\]]*(?<![\s,;|])[\s,;|]+['"\[]*(?=https?://)""", re.IGNORECASE
)
WIDTH = re.compile(r"(?<!\s)\s+\d+(?:\.\d+)?[wx]$")  # behind an address of a srcset
AROUND = frozenset(
    {"[]", "{}", "()", "<>", "''"}
)  # lists of Python, JSON and SQL, and marks of one address
# Words for nothing known: LAION's ? of a licence, pandas', spreadsheets', and \N of MySQL.
UNKNOWN = frozenset({"?", "-", "nan", "null", "none", "n/a", "#n/a", "<na>", "\\n"})
NO_OPT_OUT = UNKNOWN - {"?"} | {"", "0", "0.0", "false", "f", "no", "n", "off"}
NO_ADDRESS = re.compile(
    r"nan|none|null|nil|#?n/a|<na>|\\n|\?|-+:?", re.IGNORECASE
)  # words for none
ABOUT_RIGHTS = ("licence", "licence_url", "creator", "landing_page")
DIGESTS = {"sha256": 64, "md5": 32}  # their length in hexadecimal digits
NONE = {"opt_out": NO_OPT_OUT, **dict.fromkeys((*ABOUT_RIGHTS, *DIGESTS), UNKNOWN)}
NAMED = re.compile(  # before a digest
    r"""^["'{\s]*(?:urn:)?(?:sha-?256|md5)(?:[\s:=$}-]+|//)|^0x""", re.IGNORECASE
)
WORDS = {
    "nsfw": 1.0,
    "unsure": 0.5,
    "unlikely": 0.0,
    "true": 1.0,
    "false": 0.0,
}  # LAION's, Python's
SAID = ("name", "value", "text", "title", "username", "id")  # what a structure is called by
ADDRESS = ("url", "src", "uri", "href")  # goes before others in a structure
DEEPEST = 8  # levels of lists within lists in a cell


def text(value: object, depth: int = 0) -> str:
    """Any cell as text: null -> "", lists joined by a comma; what is nested too deeply is left out.

    Of a structure, as {"name": "Ada", "id": 7}, what it is called by.
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas: there is none
        return ""
    if isinstance(value, (list, tuple)):
        inner = (text(one, depth + 1) for one in value) if depth < DEEPEST else ()
        return ", ".join(filter(None, inner))
    if isinstance(value, dict):
        called = next((value[key] for key in SAID if value.get(key)), list(value.values()))
        return text(called, depth + 1) if depth < DEEPEST else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip()


def glance(value: object) -> str:
    """A cell as a text that begins with the address, if it has any."""
    return addresses(value)[0] if isinstance(value, (list, tuple, dict)) else text(value)


def known(ours: str, value: object) -> str:
    """A cell as text of our column, "" where a list writes that it does not know."""
    found = text(value)
    if found.lower() in NONE.get(ours, ()):
        return ""
    if ours in DIGESTS:
        return _digest(value, DIGESTS[ours])
    return found.replace("\0", "") if ours != "url" else found


def addresses(value: object, depth: int = 0) -> list[str]:
    """The addresses or paths in one cell; several only where each is one of the web, or the cell is a list."""
    if not isinstance(value, str) and isinstance(value, (list, tuple)):
        each = (
            addresses(one, depth + 1) if isinstance(one, str | dict) else [text(one)]
            for one in value
        )
        found = [one for inner in each for one in inner]
        return list(dict.fromkeys(filter(None, found))) or [""]
    if isinstance(value, dict):  # as {"src": ...}, {"url": ..., "width": ...}
        return _within(value, depth)
    cell = text(value)
    if "//" not in cell:
        return ["" if NO_ADDRESS.fullmatch(cell) else cell]
    if WEB.match(cell):
        if not (cell[0] + cell[-1]).isascii():
            cell = cell.lstrip(BEFORE).rstrip(BEHIND)
    elif WEB.match(bare := cell.lstrip(BEFORE).rstrip(BEHIND)):
        cell = bare
    elif within := WITHIN.findall(cell):
        return list(dict.fromkeys(within))
    if f"{cell[:1]}{cell[-1:]}" in AROUND and WEB.match(inner := cell[1:-1].strip("'\" ")):
        cell = inner
    several = BETWEEN.split(cell) if WEB.match(cell) else [cell]
    return [WIDTH.sub("", one) for one in several] if " " in cell else several


def _within(structure: dict[str, object], depth: int) -> list[str]:
    """The addresses of the web in the first field that has any."""
    for key in sorted(structure, key=lambda key: key.lower() not in ADDRESS):
        inner = structure[key]
        if isinstance(inner, (str, dict, list)) and depth < DEEPEST:
            found = list(filter(WEB.match, addresses(inner, depth + 1)))
            if found:
                return found
    return [""]


def score(value: object) -> float | None:
    """A number, None where there is none; spreadsheets of half the world write 0,5."""
    found = text(value).lower()
    if found in WORDS:
        return WORDS[found]
    try:
        number = float(found.replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _digest(value: object, length: int) -> str:
    """In hexadecimal digits, of which some lists make bytes or base64; what is no digest comes back as it is."""
    if isinstance(value, bytes) and 2 * len(value) == length:
        return value.hex()
    found = NAMED.sub("", text(value)).strip("\"':=")
    digits = re.sub(r"[\s:-]", "", found).lower()
    if len(digits) == length:
        return digits
    alone = re.findall(rf"(?<![0-9a-f])[0-9a-f]{{{length}}}(?![0-9a-f])", found.lower())
    if len(alone) == 1:  # between marks, or with the name of its file
        return str(alone[0])
    try:
        plain = base64.b64decode(found + "=" * (-len(found) % 4), "-_", validate=True)
    except (binascii.Error, ValueError):
        plain = b""
    return plain.hex() if 2 * len(plain) == length else found.lower()
