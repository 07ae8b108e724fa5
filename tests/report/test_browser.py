"""The headless browser itself: it sees requests, errors, sizes and colours, so the pages' tests can fail."""

from __future__ import annotations

import contextlib
import http.server
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from tests import browser as driver
from tests.browser import Browser, chromium

pytestmark = pytest.mark.slow

BAD = """<!doctype html><meta name=viewport content="width=device-width"><title>bad</title>
<style>body { background: white; margin: 0 } @media (prefers-color-scheme: dark) { body { background: black } }
@media print { p { display: none } }</style>
<body><p style="width: 900px; height: 3000px">wide</p><img src="gone.png"><img src="http://evil.example/x.png">
<script>console.error('said', 1);
setTimeout(() => { document.title = 'later'; throw new Error('thrown') }, 50)</script>"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "bad page.html"
    path.write_text(BAD)
    return path


def test_requests_and_errors_of_a_page_are_seen(browser: Browser, bad: Path) -> None:
    page = browser.open(bad)
    assert page.wait_for("document.title == 'later' && document.title") == "later"
    assert [address.rsplit("/", 1)[1] for address in page.requests] == [
        "bad%20page.html",
        "gone.png",
        "x.png",
    ]
    assert "http://evil.example/x.png" in page.requests
    for said in ("said 1", "Error: thrown", "ERR_FILE_NOT_FOUND", "ERR_NAME_NOT_RESOLVED"):
        assert [error for error in page.errors if said in error], (said, page.errors)
    page.go("about:blank")
    assert (page.requests, page.errors) == ([], [])
    page.close()


def test_sizes_and_colours_are_those_asked_for(browser: Browser, bad: Path, tmp_path: Path) -> None:
    for width, dark in ((1440, False), (390, True)):
        page = browser.open(bad, width=width, dark=dark)
        assert page.evaluate("document.documentElement.clientWidth") == width
        assert (page.evaluate("document.documentElement.scrollWidth") > width) == (width < 900)
        page.screenshot(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.width == width
            assert image.height >= 3000
            assert image.convert("RGB").getpixel((5, 2000)) == ((0,) * 3 if dark else (255,) * 3)
        page.screenshot(tmp_path / "part.png", top=100, height=50)
        with Image.open(tmp_path / "part.png") as image:
            assert image.size == (width, 50)
        page.look(media="print")
        assert page.evaluate("document.body.scrollHeight") < 3000
        page.close()


def test_a_page_is_printed(browser: Browser, bad: Path, tmp_path: Path) -> None:
    """On paper the tall paragraph is not shown: it is the style for print that counts."""
    page = browser.open(bad)
    page.pdf(tmp_path / "a.pdf")
    printed = (tmp_path / "a.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    page.close()


def test_what_fails_says_so(browser: Browser, tmp_path: Path) -> None:
    page = browser.open("about:blank")
    with pytest.raises(RuntimeError, match="mine"):
        page.evaluate("(() => { throw new Error('mine') })()")
    with pytest.raises(TimeoutError, match="1 == 2"):
        page.wait_for("1 == 2", seconds=0.1)
    with pytest.raises(RuntimeError, match=r"gone\.html cannot be opened"):
        page.go(tmp_path / "gone.html")
    with pytest.raises(RuntimeError, match="No.such"):
        page.call("No.such")
    assert page.evaluate("Promise.resolve({a: [1, null]})") == {"a": [1, None]}
    page.close()


def test_a_server_of_this_machine_is_reached(browser: Browser, bad: Path) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(bad.parent))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            page = browser.open(f"http://127.0.0.1:{server.server_address[1]}/bad%20page.html")
            page.wait_for("document.title == 'later'")
            page.close()
        finally:
            server.shutdown()


def test_no_process_is_left_even_when_it_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*args: object, **more: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **more))
        return started[-1]

    monkeypatch.setattr(driver.subprocess, "Popen", noted)
    with chromium() as another:
        another.open("about:blank")
        started[0].kill()
        with pytest.raises(RuntimeError, match="the browser has ended"):
            another.call("Browser.getVersion")
    assert started[0].poll() is not None
    deadline = time.monotonic() + 20
    while _alive(started[0].pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(group: int) -> bool:
    """Whether the process group has a member that is no zombie."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, own_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(own_group) == group and state != "Z":
                return True
    return False


def test_without_a_browser_the_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "NAMES", ("no-such-browser",))
    with pytest.raises(pytest.skip.Exception, match="no-such-browser"):
        with chromium():
            pass
