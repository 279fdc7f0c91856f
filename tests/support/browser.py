"""A real Chromium without a window, driven by the Chrome DevTools Protocol.

Over a pair of pipes (`--remote-debugging-pipe`), so that neither a package for
web sockets nor a driver is needed.  Pages and their workers are told apart by
session; what they log and throw is kept.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

__all__ = ["SOFTWARE_GPU", "Page", "needs_chromium", "open_page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
chromium = next(filter(None, map(shutil.which, _NAMES)), None)
needs_chromium = pytest.mark.skipif(
    chromium is None,
    reason="there is no Chromium: apt-get install chromium, or put one on PATH",
)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    # Nothing leaves the machine, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
_NO_GPU = ("--disable-gpu",)
# WebGPU by a rasteriser that comes with Chromium.
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--use-angle=swiftshader",
)
_PATIENCE = 240.0


class Page:
    """A tab.

    Args:
      browser: what it is in.
      session: of the protocol.

    Attributes:
      problems: errors that the page and its workers logged, and exceptions
        that nobody caught.
      requests: addresses that the page and its workers asked for.
    """

    def __init__(self, browser: _Browser, session: str):
        self._browser = browser
        self._session = session
        self.problems: list[str] = []
        self.requests: list[str] = []
        browser.listeners.append(self._listen)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command(
            "Target.setAutoAttach",
            autoAttach=True,
            waitForDebuggerOnStart=False,
            flatten=True,
        )

    def command(self, method: str, **parameters) -> dict[str, Any]:
        """Sends a command of the protocol and returns its result."""
        return self._browser.command(method, parameters, self._session)

    def go(self, url: str) -> None:
        """Opens an address; returns when it begins to load."""
        answer = self.command("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise.

        Raises:
          AssertionError: if it throws.
        """
        answer = self.command(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = _PATIENCE) -> Any:
        """Waits until an expression is truthy, and returns its value."""
        end = time.monotonic() + seconds
        # An element is truthy to JavaScript, and {} when it arrives here.
        while (value := self.evaluate(f"({expression}) || null")) is None:
            assert time.monotonic() < end, (
                f"not true within {seconds:g} s: {expression}; the page "
                f"says {self.evaluate('document.body.innerText')[:500]!r}, "
                f"problems: {self.problems}"
            )
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Sets the size of the window, in CSS pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def prefer(self, **features: str) -> None:
        """Sets media features, such as `color_scheme="dark"`."""
        self.command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": f"prefers-{name.replace('_', '-')}", "value": value}
                for name, value in features.items()
            ],
        )

    def screenshot(self, path: pathlib.Path, *, whole: bool = False) -> None:
        """Writes a PNG of the window, or of the whole page."""
        answer = self.command(
            "Page.captureScreenshot", captureBeyondViewport=whole
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def mouse(self, *points: tuple[float, float]) -> None:
        """Presses at the first point, moves through all, lets go."""
        (x, y), *others = points
        self._mouse("mouseMoved", x, y, 0)
        self._mouse("mousePressed", x, y, 1)
        for x, y in others:
            self._mouse("mouseMoved", x, y, 1)
        self._mouse("mouseReleased", x, y, 0)

    def key(self, key: str) -> None:
        """Presses a key, such as "ArrowRight"."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, " ": 32}
        code = codes.get(key, 0)
        for kind in ("rawKeyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
            )

    def _mouse(self, kind, x, y, buttons):
        self.command(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left",
            buttons=buttons,
            clickCount=1,
        )

    def _listen(self, event: dict) -> None:
        method, values = event["method"], event["params"]
        match method:
            case "Target.attachedToTarget":
                # A worker: its log is the page's too.
                session = values["sessionId"]
                for domain in ("Runtime", "Log", "Network"):
                    self._browser.send(f"{domain}.enable", {}, session)
            case "Runtime.exceptionThrown":
                details = values["exceptionDetails"]
                error = details.get("exception", {}).get("description")
                self.problems.append(error or details["text"])
            case "Runtime.consoleAPICalled":
                if values["type"] in ("error", "assert"):
                    self.problems.append(
                        " ".join(
                            str(a.get("value", a.get("description")))
                            for a in values["args"]
                        )
                    )
            case "Log.entryAdded":
                entry = values["entry"]
                if entry["level"] == "error":
                    self.problems.append(
                        f"{entry['text']} {entry.get('url', '')}"
                    )
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])


class _Browser:
    """A process, and the protocol on its pipes."""

    def __init__(self, profile: pathlib.Path, flags: Sequence[str]):
        assert chromium is not None
        command = [
            chromium,
            *_FLAGS,
            *flags,
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self.listeners: list = []
        self._number = 0
        self._answers: dict[int, dict] = {}
        self._events: collections.deque[dict] = collections.deque()
        self._rest = b""
        # Chromium reads from 3 and writes to 4.
        theirs_in, self._write = map(_high, os.pipe())
        self._read, theirs_out = map(_high, os.pipe())
        log = os.open(profile.with_suffix(".log"), os.O_CREAT | os.O_WRONLY)
        try:
            self._process = os.posix_spawn(
                chromium,
                command,
                {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                    (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                ],
                setpgroup=0,
            )
        finally:
            for descriptor in (theirs_in, theirs_out, log):
                os.close(descriptor)

    def send(self, method: str, parameters: dict, session: str | None) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        return self._number

    def command(self, method, parameters, session=None) -> dict:
        number = self.send(method, parameters, session)
        end = time.monotonic() + _PATIENCE
        while number not in self._answers:
            self._receive(end)
        answer = self._answers.pop(number)
        while self._events:
            event = self._events.popleft()
            for listener in self.listeners:
                listener(event)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _receive(self, end: float) -> None:
        ready, _, _ = select.select(
            [self._read], [], [], max(0, end - time.monotonic())
        )
        assert ready, "Chromium does not answer"
        data = os.read(self._read, 2**20)
        assert data, "Chromium has ended"
        *messages, self._rest = (self._rest + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._events.append(message)

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.command("Browser.close", {})
        os.close(self._write)
        os.close(self._read)
        end = time.monotonic() + 20
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
                return
            time.sleep(0.05)


def _high(descriptor: int) -> int:
    """The same file under a number that the child does not need."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high


@contextlib.contextmanager
def open_page(
    folder: pathlib.Path, flags: Sequence[str] = _NO_GPU
) -> Iterator[Page]:
    """A blank tab of a new Chromium, which ends with the block.

    Args:
      folder: for the browser's profile and log.
      flags: besides those that every browser gets; by default no GPU.
    """
    profile = folder / "profile"
    profile.mkdir(parents=True)
    browser = _Browser(profile, flags)
    try:
        target = browser.command("Target.createTarget", {"url": "about:blank"})
        session = browser.command(
            "Target.attachToTarget",
            {"targetId": target["targetId"], "flatten": True},
        )
        yield Page(browser, session["sessionId"])
    finally:
        browser.close()
        shutil.rmtree(profile, ignore_errors=True)
