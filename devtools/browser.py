"""A headless Chromium, driven over its DevTools protocol: what a person does on the page, for tests and pictures."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from .console import Problem

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_SECONDS = 60
ANSWER_SECONDS = 60
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # the page's outside links lead nowhere
)


def find() -> str | None:
    """The Chromium of this machine, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a Chromium of its own with an empty profile; a context manager that leaves no process behind."""

    def __init__(self, width: int = 1600, height: int = 1000, switches: tuple[str, ...] = ()) -> None:
        self.size, self.switches = (width, height), (*SWITCHES, *switches)
        self.errors: list[str] = []  # what the page's scripts threw
        self._last = 0

    def __enter__(self) -> Browser:
        import websocket

        program = find()
        if program is None:
            raise Problem("No Chromium found; install one (on Debian and Ubuntu: chromium).")
        self._folder = tempfile.TemporaryDirectory(prefix="layerfusion-browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [program, *self.switches, f"--user-data-dir={self._folder.name}", "--window-size={},{}".format(*self.size),
             "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            port = self._port()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            page = next(target for target in pages if target["url"] == "about:blank")  # not one of the browser's own
            self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=ANSWER_SECONDS)
            for domain in ("Page", "Runtime"):
                self.send(f"{domain}.enable")
            self.send("Page.bringToFront")  # a page behind another gets no input
            self.send("Emulation.setFocusEmulationEnabled", enabled=True)
            self.resize(*self.size)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._stop()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result; Problem when the browser refuses."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(_words(message["params"]["exceptionDetails"]))
            if message.get("method") == "Page.javascriptDialogOpening":  # e.g. leave the page with unsaved changes?
                accept = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                self._socket.send(json.dumps(accept))
            if message.get("id") == self._last:
                if "error" in message:
                    raise Problem(f"{method}: {message['error']['message']}")
                return message["result"]

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        """Load a page."""
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression on the page; promises are awaited. Problem with what it threw."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Problem(f"{script[:200]}: {_words(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Repeat an expression until it is true; Problem when that takes too long."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > deadline:
                raise Problem(f"Not within {seconds:.0f} s: {script[:300]}\n" + "\n".join(self.errors[-3:]))
            time.sleep(0.1)

    def click(self, x: float, y: float, button: str = "left", count: int = 1) -> None:
        """Press and release a mouse button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button=button, clickCount=count)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One mouse event: mousePressed, mouseReleased, mouseMoved or mouseWheel."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, key: str, control: bool = False) -> None:
        """Press and release a key, named as in KeyboardEvent.key, with or without the control key."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13}.get(key, ord(key[0].upper()))
        what = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 if control else 0}
        if len(key) == 1 and not control:
            what["text"] = key
        self.send("Input.dispatchKeyEvent", type="keyDown", **what)
        self.send("Input.dispatchKeyEvent", type="keyUp", **what)

    def drop(self, file: Path, x: float, y: float) -> None:
        """Drag a file from outside over the window and let it fall there."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """The window, or a rectangle {x, y, width, height} of it, as PNG."""
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", **more)["data"])

    def _port(self) -> int:
        file = Path(self._folder.name) / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if file.is_file() and (lines := file.read_text(encoding="utf-8").split()):
                return int(lines[0])
            time.sleep(0.1)
        raise Problem(f"Chromium did not start within {START_SECONDS} s.")

    def _stop(self) -> None:
        """End the browser with all its helper processes: they share the group it was started in."""
        if os.name != "nt":
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _words(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details.get("text", "")
