"""A real headless Chromium, spoken to through its debugging pipe: no driver, no port, nothing to install."""

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

BINARY = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of one browser; a context manager.

    Args:
        folder: empty; gets the profile and the downloads.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def give_pipes() -> None:
            # Copied first, because one of them may be 3 or 4 itself.
            command, answer = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(command, 3)
            os.dup2(answer, 4)

        self._process = subprocess.Popen(
            [str(BINARY), *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=False, preexec_fn=give_pipes,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer, self._session = 0, b"", None
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, timeout: float = 60, **params: Any) -> dict[str, Any]:
        """The result of one command of the Chrome DevTools Protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The JSON value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, script: str, timeout: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout
        while not self.evaluate(script):
            assert time.monotonic() < end, f"{script} did not come true. The page says: {self.text[:1500]}"
            time.sleep(0.02)

    def wait_for(self, text: str, timeout: float = 30) -> None:
        """Wait until the page shows a text."""
        self.wait_until(f"!!document.body && document.body.innerText.includes({json.dumps(text)})", timeout)

    def wait_for_rest(self) -> None:
        """Wait until Streamlit has drawn the page."""
        self.wait_until("!!document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')")

    @property
    def text(self) -> str:
        return self.evaluate("document.body ? document.body.innerText : ''")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )

    def click(self, text: str, tag: str = "button") -> None:
        """Click, with the mouse, the first element of a kind that shows a text."""
        found = f"[...document.querySelectorAll({json.dumps(tag)})].find(e => e.innerText.includes({json.dumps(text)}))"
        self.wait_until(f"!!({found})")
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({found}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def upload(self, *paths: Path) -> None:
        """Hand files to the first file input of the page."""
        self.wait_until("!!document.querySelector('input[type=file]')")
        handle = self.call("Runtime.evaluate", expression="document.querySelector('input[type=file]')")
        files = [str(path) for path in paths]
        self.call("DOM.setFileInputFiles", objectId=handle["result"]["objectId"], files=files)

    def wait_for_download(self, suffix: str, timeout: float = 20) -> Path:
        """The first finished download with this suffix."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for path in self.downloads.glob(f"*{suffix}"):
                return path
            time.sleep(0.05)
        raise AssertionError(f"No {suffix} was downloaded. Got {list(self.downloads.iterdir())} instead.")

    def screenshot(self, path: Path) -> None:
        """PNG of the whole page, as long as it is."""
        self.wait_for_rest()
        height = self.evaluate("(document.querySelector('[data-testid=stMain]') || document.body).scrollHeight")
        width, low = self.evaluate("[innerWidth, innerHeight]")
        self.resize(width, max(low, min(height + 20, 4000)))
        time.sleep(0.7)  # the table draws itself on a canvas in its own time
        image = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(image))
        self.resize(width, low)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "The browser does not answer."
            part = os.read(self._in, 1 << 20)
            assert part, "The browser has ended."
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
