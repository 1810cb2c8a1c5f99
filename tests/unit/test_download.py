"""Downloads: complete or absent, in time, from servers that do all kinds of wrong things."""

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.file_server import FileServer, Page, closed_port, serve_files

from metal_defects import log
from metal_defects.download import DownloadError, UnavailableError, download, reach
from metal_defects.log import logger

pytestmark = pytest.mark.usefixtures("unasked_hosts")
CONTENT = bytes(range(256)) * 10_000  # more than one chunk
TIMEOUT_SECONDS = 1.5


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files({"/a.bin": Page(CONTENT)}) as running:
        yield running


def fetch(url: str, target: Path, max_bytes: int = len(CONTENT), timeout: float = TIMEOUT_SECONDS) -> None:
    download(url, target, timeout, max_bytes)


def test_a_file_arrives_whole_and_in_its_place(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    fetch(f"{server.url}/a.bin", target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_length_need_not_be_announced(server: FileServer, tmp_path: Path) -> None:
    server.pages["/a.bin"].announced = 0
    fetch(f"{server.url}/a.bin", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(CONTENT[:-1], announced=len(CONTENT)), "must arrive completely; run again"),
        (Page(CONTENT + b"x"), "no more than 2560000 bytes"),
        (Page(CONTENT + b"x", announced=0), "no more than 2560000 bytes"),
        (Page(b"", announced=1 << 60), "no more than 2560000 bytes"),
    ],
    ids=["cut short", "too large", "too large, not announced", "endless"],
)
def test_a_bad_download_leaves_nothing_and_the_old_file_alone(
    server: FileServer, tmp_path: Path, page: Page, message: str
) -> None:
    (tmp_path / "a").write_text("old")
    server.pages["/a.bin"] = page
    with pytest.raises(DownloadError, match=message):
        fetch(f"{server.url}/a.bin", tmp_path / "a")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_that_fails_its_check_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    def refuse(partial: Path) -> None:
        assert partial.read_bytes() == CONTENT
        raise ValueError("not the published one")

    with pytest.raises(ValueError, match="published"):
        download(f"{server.url}/a.bin", tmp_path / "a", TIMEOUT_SECONDS, len(CONTENT), refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_does_not_silence_its_host(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"b\.bin must be there.*Got HTTP status 404\."):
        fetch(f"{server.url}/b.bin", tmp_path / "b")
    fetch(f"{server.url}/a.bin", tmp_path / "a")
    assert server.asked == ["/b.bin", "/a.bin"]


def test_a_host_that_refuses_is_asked_once(tmp_path: Path) -> None:
    url = f"http://someone:secret@127.0.0.1:{closed_port()}/a.bin"
    known = []
    for _ in range(3):
        with pytest.raises(UnavailableError, match=r"^127\.0\.0\.1:\d+ must answer") as caught:
            fetch(url, tmp_path / "a")
        known.append(caught.value.known)
    assert known == [False, True, True]


def test_a_silent_host_costs_the_time_limit_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin"
        start = time.monotonic()
        for ask in (lambda: reach(url, 0.3), lambda: fetch(url, tmp_path / "a", timeout=0.3)):
            with pytest.raises(UnavailableError):
                ask()
        assert 0.2 < time.monotonic() - start < 1


def test_a_name_that_takes_long_to_resolve_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        released.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"^weights\.invalid must answer within 0\.3 seconds\. Got no answer"):
        reach("http://weights.invalid/", 0.3)
    assert time.monotonic() - start < 1
    released.set()


def test_any_answer_will_do_to_be_reached(server: FileServer) -> None:
    reach(server.url, TIMEOUT_SECONDS)
    assert server.asked == ["/"]


def test_a_long_download_tells_how_far_it_is(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(log, "LONG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger.name):
        fetch(f"{server.url}/a.bin", tmp_path / "a")
    assert re.fullmatch(r"   Downloading a\.bin \(MB\): 3 of 3, \d s", caplog.messages[-1])
