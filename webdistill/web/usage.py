"""What site owners say of training, where it is no matter of crawling: opt-outs with the line that says so.

    User-agent: *
    Content-Signal: search=yes, ai-train=no     robots.txt; also a response header   (contentsignals.org, 2025)
    Content-Usage: /art/ train-ai=n             robots.txt; also a response header   (IETF AIPREF)

AIPREF is read as in draft-ietf-aipref-attach-05 and draft-ietf-aipref-vocab-08, which are drafts. Where they leave a
doubt the owner's "no" counts: labels and values of earlier drafts are understood, spellings need not be exact, and
`train-ai=n` is obeyed though vocab-08 means generative models alone. A path without a word on training takes nothing
back; of those with one the longest counts, and of equal ones the "no".

ai.txt holds groups as robots.txt does (Spawning's form), or lines such as `Training: deny` (draft-car-ai-txt-
wellknown-00).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from multidict import CIMultiDictProxy
from protego import Protego

AGENT = "webdistill"
FIELDS = ("content-usage", "content-signal", "content-signals")
STATED = re.compile(r"content[-_ ](?:signal|usage)", re.IGNORECASE)
PAIR = re.compile(
    r"([A-Za-z*][\w.*-]*)\s*(?:=|:(?!\s*[^\s,;|]*=))\s*(\"[^\"]*\"|[^\s,;|\x00-\x1f]+)"
)
SCOPED = re.compile(r"([/*]\S*)\s+(.*)", re.DOTALL)
LABELS = (  # the first of these groups with a word on it decides; without hyphens, which some leave out
    ("trainai", "aitrain", "aitraining"),
    ("traingenai", "genai", "foundationmodel"),
    ("ai", "bots", "all", "tdm"),  # what training was a part of in earlier drafts
)
NO = frozenset(
    {
        "n",
        "no",
        "?0",
        "0",
        "false",
        "off",
        "none",
        "never",
        "deny",
        "denied",
        "disallow",
        "disallowed",
    }
)
YES = frozenset({"y", "yes", "?1", "1", "true", "on", "allow", "allowed"})
ROOTS = frozenset({"/", "*", "/*"})
QUOTED = 200  # characters of a line that the ledger shows
LOOKED_AT = 100  # lines among which the one that refuses is looked for


@dataclass(frozen=True)
class Rule:
    """A pattern of paths, whether training on them is refused, and the line that says so."""

    pattern: str
    no: bool
    line: str


class Stated:
    """What the rules say of each path; patterns are those of robots.txt, and the longest that matches counts.

    `any_case`: patterns are in lower case and mean every spelling, as those of kinds of files do.
    """

    def __init__(self, rules: Iterable[Rule], *, any_case: bool = False) -> None:
        self._any_case = any_case
        places: dict[str, Rule] = {}
        for rule in rules:
            if rule.no or rule.pattern not in places:
                places[rule.pattern] = rule
        self._rules = _parsed(places.values())
        self._all = all(rule.no for rule in places.values()) and bool(ROOTS & places.keys())
        refusing = (rule for rule in places.values() if rule.no)
        self._no = sorted(refusing, key=lambda rule: -len(rule.pattern))

    def __bool__(self) -> bool:
        return bool(self._no)

    @property
    def everywhere(self) -> bool:
        """Whether all is refused, without an exception."""
        return bool(self._no) and self._all

    def refusal(self, url: str) -> str:
        """The line that refuses the URL, or ""."""
        url = url.lower() if self._any_case else url
        if self._rules.can_fetch(url, AGENT):
            return ""
        for rule in self._no[:LOOKED_AT]:
            if not _parsed([rule]).can_fetch(url, AGENT):
                return rule.line
        return self._no[0].line.partition(":")[0]


def in_robots(text: str) -> Stated | None:
    """What a robots.txt says beside its rules for crawling."""
    if not STATED.search(text):
        return None
    return Stated(_usage_rules(lines_for_us(text))) or None


def in_ai_txt(text: str) -> Stated | None:
    """What an ai.txt says; None: nothing, or it is a page that the server sends for want of one."""
    if text.lstrip().startswith("<"):
        return None
    lines = list(lines_for_us(text))
    conditional = any(
        field == "training" and value.lower() == "conditional" for field, value in lines
    )
    rules = [replace(rule, pattern=rule.pattern.lower()) for rule in _usage_rules(lines)]
    for field, value in lines:
        line, word = _shown(field, value), value.lower()
        if field in ("allow", "disallow") and value:
            rules.append(Rule(_kinds(value), field == "disallow", line))
        elif field == "training" and word in NO | YES:
            rules.append(Rule("/", word in NO, line))
        elif field in ("training-allow", "training-deny") and value and conditional:
            rules.append(Rule(_kinds(value), field == "training-deny", line))
    return Stated(rules, any_case=True) or None


def in_headers(headers: CIMultiDictProxy[str]) -> str:
    """The header that refuses, as "Content-Usage: train-ai=n", or ""."""
    for name in FIELDS:
        value = ", ".join(headers.getall(name, ()))
        if value and refuses(value):
            return _shown(name, value)
    return ""


def refuses(preferences: str) -> bool | None:
    """Whether `train-ai=n, search=y` refuses training; None: it says nothing of it. Of equal labels the last counts."""
    found = {
        re.sub("[_-]", "", key.lower()): value.strip("\"'.").lower()
        for key, value in PAIR.findall(preferences)
    }
    for group in LABELS:
        words = {found[label] for label in group if label in found}
        if words & NO:
            return True
        if words & YES:
            return False
    return None


def lines_for_us(text: str) -> Iterator[tuple[str, str]]:
    """Field and value of the lines that mean us: of our own group, else of that for all, and those before any group."""
    groups: dict[str, list[tuple[str, str]]] = {}
    common: list[tuple[str, str]] = []
    here: list[list[tuple[str, str]]] = [common]
    among_names = False
    for line in text.splitlines():
        field, colon, value = line.partition("#")[0].partition(":")
        field, value = re.sub(r"[\s_]+", "-", field.strip().lower()), value.strip()
        if not colon or field in ("sitemap", "host"):
            continue
        if field in ("user-agent", "useragent", "agent"):
            here = here if among_names else []
            name = value.lower()
            here.append(groups.setdefault(name if name == "*" else name.replace("*", ""), []))
        else:
            for lines in here:
                lines.append((field, value))
        among_names = field in ("user-agent", "useragent", "agent")
    ours = [name for name in groups if name and AGENT.startswith(name)]
    name = max(ours, key=len) if ours else "*"
    yield from [*common, *groups.get(name, [])]


def _usage_rules(lines: Iterable[tuple[str, str]]) -> Iterator[Rule]:
    for field, value in lines:
        if field not in FIELDS:
            continue
        scoped = SCOPED.fullmatch(value)
        path, preferences = scoped.groups() if scoped else ("/", value)
        no = refuses(preferences)
        if no is not None:
            yield Rule(_pattern(path), no, _shown(field, value))


def _pattern(text: str) -> str:
    """A pattern as robots.txt has it, on one line and without a comment."""
    word = text.split(maxsplit=1)[0].replace("#", "%23")
    return word if word.startswith(("/", "*")) else f"/{word}"


def _kinds(text: str) -> str:
    """A pattern of an ai.txt, where `.jpg` means all files of that kind, and so does `*.JPG`."""
    return _pattern(f"*{text}" if text.startswith(".") else text).lower()


def _parsed(rules: Iterable[Rule]) -> Protego:
    lines = [f"{'Disallow' if rule.no else 'Allow'}: {rule.pattern}" for rule in rules]
    return Protego.parse("\n".join(["User-agent: *", *lines]))


def _shown(field: str, value: str) -> str:
    """A line for the ledger."""
    name = "-".join(word.capitalize() for word in field.split("-"))
    words = " ".join(f"{name}: {value}".split())
    line = "".join(sign for sign in words if sign.isprintable())
    return line if len(line) <= QUOTED else f"{line[: QUOTED - 1]}…"
