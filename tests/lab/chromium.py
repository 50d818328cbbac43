"""Chromium without a display, driven over two pipes: open a page, ask it something, press and click."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,900",
    "--remote-debugging-pipe",
]


class Browser:
    """One page. Messages are JSON that ends with a zero byte, on file descriptors 3 (to it) and 4 (from it)."""

    def __init__(self, profile: Path) -> None:
        assert COMMAND
        to_read, self._write = os.pipe()
        self._read, from_write = os.pipe()
        # The shell puts the pipes where the browser looks for them.
        shell = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        words = ["bash", "-c", shell, COMMAND, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            words, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        self._left, self._count, self._session = b"", 0, ""
        self.complaints: list[str] = []
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for room in ("Page", "Runtime", "Log"):
            self._call(f"{room}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, page: Path | str) -> None:
        """Open a file, or an address, and wait until it is loaded."""
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self._call("Page.navigate", url=address)
        for _ in range(1000):
            if self.ask("document.readyState") == "complete" and self.ask("location.protocol") != "about:":
                return
        raise AssertionError("the page did not load")

    def ask(self, script: str) -> Any:
        """Return what a JavaScript expression gives."""
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click."""
        for what in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key, by its name."""
        for what in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=what, key=key, text="\r" if key == "Enter" else "")

    def pdf(self) -> int:
        """Print the page; return the length of the file."""
        return len(self._call("Page.printToPDF")["data"])

    def media(self, kind: str) -> None:
        """Show the page as on ``"print"`` or ``"screen"``."""
        self._call("Emulation.setEmulatedMedia", media=kind)

    def size(self, width: int, *, dark: bool = False) -> None:
        """Give the page a width in pixels, and a reader who likes it light or dark."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media="", features=[theme])

    def cut_off(self) -> list[str]:
        """Return what is wider than it is shown: the page, or a table, figure or command in it."""
        return self.ask(
            """(() => { const wide = [...document.querySelectorAll(".scroll, .plot, pre, table, svg, figcaption, .cards > div")]
            .filter((e) => e.checkVisibility() && (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
                || e.getBoundingClientRect().right > document.documentElement.clientWidth + 1));
            const page = document.documentElement;
            return [...(page.scrollWidth > page.clientWidth ? ["the page"] : []),
                ...wide.map((e) => `${e.tagName} ${e.closest("figure")?.id ?? ""}`)]; })()"""
        )

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])
        elif event.get("method") in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
            self.complaints.append(json.dumps(event["params"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has closed"
            self._left += part
        line, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found
