"""A real headless Chromium, and the app as people start it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from support import PROJECT

DRIVER = shutil.which("chromedriver")
BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_AT_REST = "return !!document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"
# The page grows while it is drawn: scroll there, and be true when the place has been the same for 0.3 s.
_STANDS_STILL = """
    const element = arguments[0]
    element.scrollIntoView({block: 'center'})
    const {x, y} = element.getBoundingClientRect(), place = `${x} ${y} ${document.body.innerText.length}`
    if (element.lastPlace !== place) [element.lastPlace, element.since] = [place, performance.now()]
    return performance.now() - element.since > 300
"""


class Browser:
    """One page of one browser; a context manager.

    Args:
        folder: empty; gets the profile and the downloads.
    """

    def __init__(self, folder: Path, width: int = 1280, height: int = 900) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        options = webdriver.ChromeOptions()
        options.binary_location = BINARY
        for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(self.downloads)})
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.resize(width, height)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.quit()

    @property
    def text(self) -> str:
        """What the page shows."""
        return self.run("return document.body ? document.body.innerText : ''")

    def open(self, address: str) -> None:
        self._driver.get(address)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page; below 700 pixels it is a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that JavaScript returns."""
        return self._driver.execute_script(script, *arguments)

    def wait_until(self, script: str, *arguments: Any, seconds: float = 20) -> Any:
        """The first true value that JavaScript returns."""
        try:
            return WebDriverWait(self._driver, seconds, 0.02).until(lambda _: self.run(script, *arguments))
        except TimeoutException as error:
            raise AssertionError(f"{script} {arguments} did not come true on a page with: {self.text}") from error

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text and is drawn to its end."""
        self.wait_until(f"return document.body.innerText.includes(arguments[0]) && (() => {{{_AT_REST}}})()", text)

    def find(self, text: str, tag: str = "button") -> WebElement:
        """The first element of a kind that shows a text, once it is there."""
        find = "return [...document.querySelectorAll(arguments[0])].find(e => e.innerText.includes(arguments[1]))"
        return self.wait_until(find, tag, text)

    def click(self, element: WebElement, right: int = 0, down: int = 0) -> None:
        """Click an element with the mouse, so many pixels from its middle, once it stands still."""
        self.wait_until(_STANDS_STILL, element)
        ActionChains(self._driver).move_to_element_with_offset(element, right, down).click().perform()

    def upload(self, *paths: Path) -> None:
        """Hand files to the page."""
        self.wait_until("return !!document.querySelector('input[type=file]')")
        field = self._driver.find_element(By.CSS_SELECTOR, "input[type=file]")
        field.send_keys("\n".join(map(str, paths)))

    def wait_for_download(self, suffix: str, seconds: float = 20) -> Path:
        """The first finished download with this suffix."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for path in self.downloads.glob(f"*{suffix}"):
                return path
            time.sleep(0.05)
        raise AssertionError(f"No {suffix} was downloaded. Got {list(self.downloads.iterdir())} instead.")

    def capture(self, path: Path) -> None:
        """PNG of what the window shows of any page."""
        self._driver.save_screenshot(str(path))

    def screenshot(self, path: Path) -> None:
        """PNG of the whole page, as long as it is."""
        self.wait_until(_AT_REST)
        width, height = self.run("return [innerWidth, innerHeight]")
        full = self.run("return document.querySelector('[data-testid=stMain]').scrollHeight")
        self.resize(width, max(height, min(full + 20, 4000)))
        time.sleep(0.7)  # the table draws itself on a canvas in its own time
        self.capture(path)
        self.resize(width, height)


@contextmanager
def run_app(bundle: Path, folder: Path) -> Iterator[str]:
    """The address of an app that serves a bundle, stopped when the block ends; `folder` gets its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "st_app_predict.py", "--server.port", str(port)]
    variables = {"METAL_DEFECTS_BUNDLE": str(bundle), "METAL_DEFECTS__PATHS__LOGS": str(folder / "logs")}
    log = folder / "app.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--server.address", "127.0.0.1"], cwd=PROJECT, env=os.environ | variables, stdout=output,
            stderr=output,
        )  # fmt: skip
        try:
            _wait_for_health(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_health(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
