"""A headless Chromium for tests of pages, driven through the Chrome DevTools Protocol. See `chromium` and `Page`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0  # for anything: start, a command, loading a page
PHONE = 600  # px of width below which a page is shown as a phone shows it
TALLEST = 12_000  # px in one picture; a texture cannot be larger everywhere
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser with an empty profile; skips the test where none is installed.

    No name but localhost resolves in it, so a page under test reaches no server outside.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(
        prefix="webdistill-chromium-", ignore_cleanup_errors=True
    ) as name:
        profile = Path(name)
        with (profile / "stderr.txt").open("wb") as log, asyncio.Runner() as runner:
            process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that all its processes can be ended together
            )
            try:
                browser = Browser(runner, _address(process, profile))
                try:
                    yield browser
                finally:
                    browser.close()
            finally:
                _end(process)


def _address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """The browser writes port and path of its debugging socket into the profile."""
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    said = (profile / "stderr.txt").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the browser did not start (exit status {process.poll()}):\n{said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # it was asked to close
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


class Browser:
    """The connection to a running browser."""

    def __init__(self, runner: asyncio.Runner, address: str) -> None:
        self._runner = runner
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}  # by session
        self._session = runner.run(_client())
        self._socket = runner.run(_connected(self._session, address))

    def open(
        self,
        url: str | Path,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        media: Literal["screen", "print"] = "screen",
    ) -> Page:
        """Show a file or an address in a new tab of `width` x `height` px and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target, width)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < PHONE,
        )
        page.look(dark, media)
        page.go(url)
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result. Raises RuntimeError when the browser refuses it or is gone."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        return self._runner.run(
            self._call(message | ({"sessionId": session} if session else {}), number)
        )

    async def _call(self, message: dict[str, Any], number: int) -> dict[str, Any]:
        with contextlib.suppress(ConnectionError):  # the answer says that it has ended
            await self._socket.send_json(message)
        try:
            async with asyncio.timeout(SECONDS):
                while (answer := await self._receive(SECONDS)).get("id") != number:
                    pass
        except TimeoutError:
            raise TimeoutError(f"{message['method']} took more than {SECONDS:.0f} s") from None
        if "error" in answer:
            raise RuntimeError(f"{message['method']}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, until: Callable[[], bool], what: str) -> None:
        """Take events until the condition holds. Raises TimeoutError saying what was waited for."""

        async def wait() -> None:
            deadline = time.monotonic() + SECONDS
            while not until():
                try:
                    await self._receive(deadline - time.monotonic())
                except TimeoutError:
                    raise TimeoutError(f"{what} did not happen in {SECONDS:.0f} s") from None

        self._runner.run(wait())

    async def _receive(self, seconds: float) -> dict[str, Any]:
        received = await self._socket.receive(max(seconds, 0.001))
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise RuntimeError("the browser has ended")
        message: dict[str, Any] = received.json()
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.event(message["method"], message["params"])
        return message

    def close(self) -> None:
        """Ask it to end and let go of the connection."""
        with contextlib.suppress(Exception):  # it may have crashed; its processes are ended anyway
            self.call("Browser.close")
        self._runner.run(self._socket.close())
        self._runner.run(self._session.close())


class Page:
    """A tab. `requests` are the addresses it asked for, `errors` what its console complained of, since `go`."""

    def __init__(self, browser: Browser, session: str, target: str, width: int) -> None:
        self._browser, self._session, self._target = browser, session, target
        self._loaded = False
        self.width = width
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol for this tab."""
        return self._browser.call(method, self._session, **params)

    def event(self, method: str, params: dict[str, Any]) -> None:
        """What the browser reports of this tab."""
        match method:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(
                    details.get("exception", {}).get("description") or details["text"]
                )
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                said = [str(a.get("value", a.get("description", ""))) for a in params["args"]]
                self.errors.append(" ".join(said))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                entry = params["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}".strip())

    def go(self, url: str | Path) -> None:
        """Open another address in this tab; forgets requests and errors."""
        address = url.absolute().as_uri() if isinstance(url, Path) else url
        self.requests.clear()
        self.errors.clear()
        self._loaded = False
        if failed := self.call("Page.navigate", url=address).get("errorText"):
            raise RuntimeError(f"{address} cannot be opened: {failed}")
        self._browser.listen(lambda: self._loaded, f"loading {address}")

    def look(self, dark: bool = False, media: Literal["screen", "print"] = "screen") -> None:
        """Dark or light; `print`: the tab shows what paper would."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        shown = media if media == "print" else ""  # "screen" would hold for paper, too
        self.call("Emulation.setEmulatedMedia", media=shown, features=[scheme])

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression (a promise is awaited). Raises RuntimeError with what it threw."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = SECONDS) -> Any:
        """The value of an expression once it is true. Raises TimeoutError naming it."""
        deadline = time.monotonic() + seconds
        while not (found := self.evaluate(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true after {seconds:g} s: {script}")
            time.sleep(0.05)
        return found

    def screenshot(self, path: Path, top: int = 0, height: int | None = None) -> None:
        """The page from `top` on as PNG, all of it (12,000 px at most) unless `height` says how much."""
        whole = int(self.evaluate("document.documentElement.scrollHeight")) - top
        clip = {
            "x": 0,
            "y": top,
            "width": self.width,
            "height": max(1, min(height or whole, whole, TALLEST)),
            "scale": 1,
        }
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """What the print button gives, on A4."""
        printed = self.call(
            "Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69
        )
        path.write_bytes(base64.b64decode(printed["data"]))

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


async def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()  # must be made inside the loop


async def _connected(
    session: aiohttp.ClientSession, address: str
) -> aiohttp.ClientWebSocketResponse:
    async with asyncio.timeout(SECONDS):
        return await session.ws_connect(address, max_msg_size=0)  # pictures are large
