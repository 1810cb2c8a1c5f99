"""Downloads: from a server that may be absent, slow or wrong to a file that is complete or not there."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from metal_defects.errors import UserError
from metal_defects.files import atomic_path
from metal_defects.log import progress_bar

if TYPE_CHECKING:
    import requests

_CHUNK_BYTES = 1 << 20
# What came of hosts that did not answer. They are not asked again by this process: each would cost the time limit.
_silent_hosts: dict[str, str] = {}


class DownloadError(UserError):
    """A file that could not be fetched completely."""


class UnavailableError(DownloadError):
    """A server that did not answer or has no such file.

    Attributes:
        known: the host has been silent before and was not asked again.
    """

    def __init__(self, sentence: str, known: bool = False) -> None:
        super().__init__(sentence)
        self.known = known


def reach(url: str, timeout_seconds: float) -> None:
    """Ask a server for the head of a page; what it answers does not matter.

    Raises:
        UnavailableError: it does not answer in time.
    """
    _ask("HEAD", url, timeout_seconds).close()


def download(
    url: str, target: Path, timeout_seconds: float, max_bytes: int, check: Callable[[Path], None] | None = None
) -> None:
    """Fetch a file, with its progress shown; `target` is there only when it is complete and passes the check.

    Args:
        url: http or https.
        target: is replaced if it is there.
        timeout_seconds: for the first answer, the look-up of the name included, and then for each part.
        max_bytes: most that the file may have.
        check: raises an error if the file, at the path that it is given, is not the expected one.

    Raises:
        UnavailableError: the server does not answer in time, or has no such file.
        DownloadError: the file is too large, or ends early.
        OSError: it cannot be written.
    """
    with _ask("GET", url, timeout_seconds) as answer:
        if not answer.ok:
            raise UnavailableError(f"{url} must be there to be downloaded. Got HTTP status {answer.status_code}.")
        with atomic_path(target) as partial:
            _receive(answer, partial, max_bytes)
            if check:
                check(partial)


def _ask(method: str, url: str, timeout_seconds: float) -> "requests.Response":
    """The server's answer, its body still to be read.

    In a thread of its own, because a socket's time limit does not cover the look-up of a name.
    """
    import requests

    host = urlsplit(url).netloc.rpartition("@")[2]
    if host in _silent_hosts:
        raise UnavailableError(_silent_hosts[host], known=True)
    answers: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            # Without compression on the way, the announced length is that of the file.
            headers = {"Accept-Encoding": "identity"}
            answers.put(requests.request(method, url, headers=headers, stream=True, timeout=timeout_seconds))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_seconds)
    except queue.Empty:
        _give_up(host, timeout_seconds, "no answer in time")
    if isinstance(answer, requests.RequestException):
        _give_up(host, timeout_seconds, type(answer).__name__)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _give_up(host: str, timeout_seconds: float, received: str) -> NoReturn:
    _silent_hosts[host] = f"{host} must answer within {timeout_seconds:g} seconds. Got {received} (offline?)."
    raise UnavailableError(_silent_hosts[host])


def _receive(answer: "requests.Response", partial: Path, max_bytes: int) -> None:
    import requests

    announced = answer.headers.get("Content-Length", "")
    size = int(announced) if announced.isdecimal() else None
    too_large = DownloadError(f"{answer.url} must have no more than {max_bytes} bytes. Got more than that.")
    if size and size > max_bytes:
        raise too_large
    name = urlsplit(answer.url).path.rpartition("/")[2]
    try:
        with progress_bar() as bar, partial.open("wb") as sink:
            task = bar.add_task(f"Downloading {name} (MB)", total=size and size / 1e6, note="")
            for chunk in answer.iter_content(_CHUNK_BYTES):
                sink.write(chunk)
                if sink.tell() > max_bytes:
                    raise too_large
                bar.update(task, completed=sink.tell() / 1e6)
    except requests.RequestException as error:
        raise DownloadError(f"{answer.url} must arrive completely; run again. Got {type(error).__name__}.") from error
