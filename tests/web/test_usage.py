"""F6: what owners say of training in robots.txt, in headers and in ai.txt is obeyed, and the ledger has the line."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from webdistill.web.optout import opt_out
from webdistill.web.usage import in_ai_txt, in_robots, refuses

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

AT = "https://a.example"
CLOUDFLARE = """# As a condition of accessing this website, you agree to abide by the following
# content signals: ai-train: training or fine-tuning AI models.
# ANY RESTRICTIONS EXPRESSED VIA CONTENT SIGNALS ARE EXPRESS RESERVATIONS OF RIGHTS

# BEGIN Cloudflare Managed content

User-agent: *
Content-Signal: search=yes,ai-train=no
Allow: /

User-agent: Amazonbot
Disallow: /

# END Cloudflare Managed Content

User-agent: *
Disallow: /admin/
"""
DRAFT = """User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: / train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: / train-ai=y
"""


def says(text: str, path: str = "/x.jpg") -> str:
    stated = in_robots(text)
    return stated.refusal(AT + path) if stated else ""


def group(*lines: str, agent: str = "*") -> str:
    return "\n".join([f"User-agent: {agent}", *lines])


@pytest.mark.parametrize(
    ("preferences", "expected"),
    [
        ("train-ai=n", True), ("train-ai=y", False), ("search=y, train-ai=n", True), ("search=yes,ai-train=no", True),
        ("ai-train=yes, search=no, ai-input=no", False), ("search=n", None), ("ai-input=no", None), ("", None),
        ("train-ai", None), ("train-ai=maybe", None), ("train-ai=n;x=y", True), ("search=y;train-ai=n", True),
        ("train-ai=y, train-ai=n", True), ("train-ai=n, train-ai=y", False), ("Train-AI = N", True),
        ("ai-train = No", True), ('train-ai="n"', True), ("train-ai=?0", True), ("ai-train=no search=yes", True),
        ("train-genai=n", True), ("train-ai=y, train-genai=n", False), ("all=n", True), ("bots=n, train-ai=y", False),
        ("bots=y, search=y, train-ai=n", True), ("tdm=n", True), ("xtrain-ai=n", None), ("train-ai-x=n", None),
        ("ai_train=no", True), ("search: yes, ai-train: no", True), ("search=yes|ai-train='no'.", True),
        ("aitrain=no", True), ("ai-train=never", True), ("TrainAI=off", True),
        ("ai-train: yes", False), ("train-ai=no-way", None), ("train-ai;allow=n, train-ai=y", False),
    ],
)  # fmt: skip
def test_what_preferences_say_of_training(preferences: str, expected: bool | None) -> None:
    assert refuses(preferences) is expected


def test_cloudflares_managed_file_is_an_opt_out() -> None:
    line = "Content-Signal: search=yes,ai-train=no"
    assert says(CLOUDFLARE) == says(CLOUDFLARE, "/") == says(CLOUDFLARE, "/a?b") == line


def test_the_drafts_own_example() -> None:
    assert says(DRAFT, "/test") == "Content-Usage: / train-ai=n"
    assert says(DRAFT, "/ai-ok/test") == ""
    assert says(DRAFT.replace("ExampleBot", "WebDistill"), "/test") == "", "our own group counts"


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        (group("Content-Usage: train-ai=n"), "/x", "Content-Usage: train-ai=n"),
        (group("content-usage : /art/\ttrain-ai=n # ours"), "/art/1", "Content-Usage: /art/ train-ai=n"),
        (group("Content-Usage: /art/ train-ai=n"), "/x", ""),
        (group("Content-Signal: /blog/ ai-train=no, search=yes"),
         "/blog/1", "Content-Signal: /blog/ ai-train=no, search=yes"),
        (group("Content-Signal: /blog/ ai-train=no"), "/x", ""),
        (group("Content-Usage: /*.jpg$ train-ai=n"), "/a/b.jpg", "Content-Usage: /*.jpg$ train-ai=n"),
        (group("Content-Usage: /*.jpg$ train-ai=n"), "/a/b.png", ""),
        (group("Content-Usage: /a%2Fb train-ai=n"), "/a%2Fb/c", "Content-Usage: /a%2Fb train-ai=n"),
        (group("Content-Usage: / train-ai=y", "Content-Usage: / train-ai=n"), "/x", "Content-Usage: / train-ai=n"),
        (group("Content-Signal: ai-train=no", "Content-Usage: / train-ai=y"), "/x", "Content-Signal: ai-train=no"),
        (group("Content-Usage: / train-ai=n", "Content-Usage: /free/ search=y"),
         "/free/1", "Content-Usage: / train-ai=n"),
        (group("Content-Usage: / train-ai=n", agent="OtherBot"), "/x", ""),
        (group("Content-Usage: / train-ai=n", agent="OtherBot\nUser-agent: webdistill"),
         "/x", "Content-Usage: / train-ai=n"),
        (group("Allow: /", agent="webdistill") + "\n" + group("Content-Signal: ai-train=no"), "/x", ""),
        (group("Content-Signal: ai-train=no", agent="WebDistill") + "\n" + group("Allow: /"),
         "/x", "Content-Signal: ai-train=no"),
        ("Content-Signal: ai-train=no\n" + group("Allow: /"), "/x", "Content-Signal: ai-train=no"),
        (group("Content-Signals: ai-train=no"), "/x", "Content-Signals: ai-train=no"),
        (group("Content_Signal: ai-train=no"), "/x", "Content-Signal: ai-train=no"),
        (group("# Content-Signal: ai-train=no"), "/x", ""), (group("Content-Signal:"), "/x", ""),
        (group("Content-Signal: /only-a-path"), "/only-a-path", ""), (group("Allow: /content-signal"), "/x", ""),
        (group("Sitemap: https://x/\nContent-Signal: ai-train=no").replace("\n", "\r\n"),
         "/x", "Content-Signal: ai-train=no"),
        (group("Content-Signal: ai-train=no\x07, " + "x" * 300),
         "/x", "Content-Signal: ai-train=no, " + "x" * 170 + "…"),
    ],
)  # fmt: skip
def test_which_lines_mean_us_and_which_paths(text: str, path: str, line: str) -> None:
    assert says(text, path) == line


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Content-Usage", "train-ai=n", "Content-Usage: train-ai=n"), ("content-usage", "train-ai=y", ""),
        ("Content-Signal", "ai-train=no, search=yes", "Content-Signal: ai-train=no, search=yes"),
        ("Content-Signals", "ai-train=no", "Content-Signals: ai-train=no"),
        ("Content-Signal", "ai-train=yes, search=yes, ai-input=yes", ""), ("Content-Usage", "search=n", ""),
    ],
)  # fmt: skip
def test_headers(name: str, value: str, expected: str) -> None:
    assert opt_out(CIMultiDictProxy(CIMultiDict([(name, value)]))) == expected
    split = [(name, part) for part in value.split(", ")]
    assert opt_out(CIMultiDictProxy(CIMultiDict(split))) == expected, "lines of a header are one"


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("User-Agent: *\nDisallow: *.jpg\nAllow: *.png", "/a/b.jpg?c", "Disallow: *.jpg"),
        ("User-Agent: *\nDisallow: *.jpg\nAllow: *.png", "/a/b.png", ""),
        ("User-Agent: *\nDisallow: *.jpg", "/a/B.JPG", "Disallow: *.jpg"),
        ("User-Agent: *\nDisallow: .JPG", "/a/b.jpg", "Disallow: .JPG"),
        ("User-Agent: *\nDisallow: /\nDisallow: *", "/x", "Disallow: /"), ("User-Agent: *\nDisallow:", "/x", ""),
        ("User-Agent: *\nAllow: /\nDisallow: /", "/x", "Disallow: /"), ("User-Agent: *\nAllow: /", "/x", ""),
        ("User-Agent: GPTBot\nDisallow: /", "/x", ""), ("Training: deny", "/x", "Training: deny"),
        ("Training: Deny # all of it", "/x", "Training: Deny"), ("Training: allow", "/x", ""),
        ("Training: conditional\nTraining-Allow: /free/*\nTraining-Deny: /art/*", "/art/1", "Training-Deny: /art/*"),
        ("Training: conditional\nTraining-Allow: /free/*\nTraining-Deny: /art/*", "/free/1", ""),
        ("Training: allow\nTraining-Deny: /art/*", "/art/1", ""),
        ("Training: allow\n\nAgent: *\n  Training: deny\n", "/x", "Training: deny"),
        ("Training: allow\n\nAgent: GPTBot\n  Training: deny\n", "/x", ""),
        ("Content-Usage: train-ai=n", "/x", "Content-Usage: train-ai=n"),
        ("# About us\nWe sell cats: all of them.\nContact: me@a.example", "/x", ""), ("", "/x", ""),
        ("<!doctype html>\nUser-agent: *\nDisallow: /", "/x", ""),
    ],
)  # fmt: skip
def test_ai_txt(text: str, path: str, line: str) -> None:
    stated = in_ai_txt(text)
    assert (stated.refusal(AT + path) if stated else "") == line


def test_no_text_whatever_breaks_the_reading() -> None:
    dice = random.Random(0)
    words = [
        "User-agent:", "*", "webdistill", "Content-Usage:", "Content-Signal:", "/", "/a", "*.jpg$", " ",
        "\t", "\n", "\r",
        "train-ai=n", "ai-train=no", "train-ai=y", ",", ";", "=", '"', "#", "%", "%zz", "\0", "\u2028", "\ufeff", "é",
        "Disallow:", "Training: deny", "Training-Deny:", "$", "**", "?0", "\x85", "\x1c",
    ]  # fmt: skip
    refused = 0
    for _ in range(2_000):
        text = "".join(dice.choices(words, k=dice.randrange(40)))
        for stated in (in_robots(text), in_ai_txt(text)):
            for path in ("", "/", "/a%zz[", "//[x", "/é$*"):
                line = stated.refusal(AT + path) if stated else ""
                assert line.isprintable()
                refused += bool(line)
    assert refused > 500


def test_thousands_of_lines_cost_little() -> None:
    lines = [f"Content-Usage: /a{n}/ train-ai=n" for n in range(10_000)]
    stated = in_robots(group(*lines))
    assert stated is not None
    assert stated.refusal(f"{AT}/a77/x") in ("Content-Usage", "Content-Usage: /a77/ train-ai=n")
    assert stated.refusal(f"{AT}/b/x") == ""


@pytest.mark.usefixtures("loopback")
def test_the_ledger_has_the_line_and_nothing_was_asked_for(server: Server, ask: Ask) -> None:
    cases = [  # host, path, status, opt_out
        ("signal", "/ok/1", "opted_out_header", "robots.txt: Content-Signal: search=yes,ai-train=no"),
        ("usage", "/ok/2", "opted_out_header", "robots.txt: Content-Usage: / train-ai=n"),
        ("usage", "/ok/free/3", "ok", ""), ("usage", "/ok/never/4", "robots", ""),
        ("spawning", "/ok/5.jpg", "opted_out_header", "ai.txt: Disallow: *.jpg"), ("spawning", "/ok/6.png", "ok", ""),
        ("denies", "/ok/7", "opted_out_header", "ai.txt: Training: deny"), ("shell", "/ok/8", "ok", ""),
        ("partly", "/ok/theirs", "opted_out_header", "ai.txt: Disallow: /ok/theirs"), ("none", "/ok/9", "ok", ""),
        ("wellknown", "/ok/10", "opted_out_header", "ai.txt: Training: deny"),
    ]  # fmt: skip
    found = ask(*(server.at(f"{host}.test") + path for host, path, *_ in cases), robots=True)
    assert [(one.status, one.opt_out) for one in found] == [case[2:] for case in cases]
    asked = server.asked
    taken = [path for path in asked if path.startswith("/ok")]
    assert sorted(taken) == sorted(path for _, path, status, _ in cases if status == "ok")
    assert asked["/ai.txt"] == asked["/.well-known/ai.txt"] == 7, (
        "once per origin, but not where robots.txt refuses all"
    )


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize("robots", [False, True])
def test_a_header_refuses_before_the_body(server: Server, ask: Ask, robots: bool) -> None:
    paths = [
        f"/usage/Content-Usage/{quote('train-ai=n, search=y')}",
        "/usage/Content-Signal/ai-train=no",
    ]
    found = ask(*(server.url + path for path in paths), robots=robots)
    assert [(r.status, r.data, r.opt_out) for r in found] == [
        ("opted_out_header", b"", "Content-Usage: train-ai=n, search=y"),
        ("opted_out_header", b"", "Content-Signal: ai-train=no"),
    ]
    free = (
        "/usage/Content-Usage/train-ai=y",
        "/usage/Content-Usage/search=n",
        "/usage/X-Usage/train-ai=n",
    )
    assert ask.statuses(*(server.url + path for path in free), robots=robots) == ["ok"] * 3
