"""A headless Chromium, spoken to through its DevTools protocol with nothing but the websockets that viser brings."""

import base64
import contextlib
import io
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


class Chromium:
    """One page. What it complains about is collected in `errors`."""

    def __init__(self, url, size=(1280, 800)):
        self._stack = contextlib.ExitStack()
        self.errors, self._numbers = [], itertools.count(1)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        window = f"--window-size={size[0]},{size[1]}"
        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, window, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._stack.callback(self._end)
        port = _wait_for(lambda: _first_line(folder / "DevToolsActivePort"), "Chromium did not start")
        listing = f"http://127.0.0.1:{port}/json/list"
        address = _wait_for(lambda: _page(listing), "Chromium shows no page")
        self._socket = self._stack.enter_context(connect(address, max_size=None, proxy=None))
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)

    def call(self, method, timeout=20.0, **parameters):
        """One command, and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        end = time.monotonic() + timeout
        while True:
            message = json.loads(self._socket.recv(timeout=max(end - time.monotonic(), 0.01)))
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message):
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        if message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(str(parameters["args"]))
        if message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(str(parameters["entry"]))

    def evaluate(self, script):
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self):
        """All text that can be read."""
        return self.evaluate("document.body ? document.body.innerText : ''") or ""

    def wait_for_text(self, pattern, seconds=15.0):
        """Waits until the page's text matches; returns it."""
        return _wait_for(
            lambda: self.text() if re.search(pattern, self.text()) else None,
            lambda: f"The page never said {pattern!r}, but {self.text()!r}; errors: {self.errors}",
            seconds,
        )

    def click(self, label):
        """Clicks on the button of that label."""
        script = (
            f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {json.dumps(label)}).click()"
        )
        result = self.call("Runtime.evaluate", expression=script)
        assert "exceptionDetails" not in result, f"no button {label!r}"

    def hide_notices(self):
        """Nothing lies over the page any more: viser complains, sooner or later, when there is no GPU to draw with."""
        style = "document.head.appendChild(document.createElement('style')).textContent"
        self.evaluate(f"{style} = '[role=alert] {{ display: none }}'")

    def screenshot(self, path=None):
        """The page as (height, width, 3) bytes; and a PNG, if a path is given."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", timeout=30.0)["data"])
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if path is not None:
            image.save(path, optimize=True)
        return np.asarray(image)

    def _end(self):
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self):
        """Ends Chromium."""
        self._stack.close()


def _wait_for(condition, complaint, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(complaint() if callable(complaint) else complaint)


def _first_line(path):
    lines = path.read_text().splitlines() if path.is_file() else []
    return lines[0] if lines else None


def _page(listing):
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), opener.open(listing, timeout=2.0) as reply:
        return next((p["webSocketDebuggerUrl"] for p in json.load(reply) if p["type"] == "page"), None)
    return None
