"""Sources: what is used, in which order, what is said about it, and what identifies it. No network is needed."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import requests
from support import PROJECT
from support.file_server import FileServer, Page, closed_port, serve_files

from metal_defects.config import DataSource, Settings, load_settings
from metal_defects.data import sources, synthetic
from metal_defects.data.sources import AUTO, SOURCE_TITLES, SOURCES, find_source, source_fingerprint
from metal_defects.data.sources.base import SourceKind
from metal_defects.download import DownloadError, UnavailableError
from metal_defects.errors import DataError
from metal_defects.log import logger

pytestmark = pytest.mark.usefixtures("unasked_hosts")
SET = ("set/Crazing/1.png", "set/Rolled/1.png")


def make_settings(tmp_path: Path, **data: Any) -> Settings:
    loaded = load_settings(PROJECT, ["data_ingestion.synthetic_images_per_class=4"], environment={})
    paths = loaded.config.paths.model_copy(update={"downloads": tmp_path / "downloads"})
    values = loaded.config.data.model_dump() | {"timeout_seconds": 0.5} | data
    config = loaded.config.model_copy(update={"paths": paths, "data": type(loaded.config.data)(**values)})
    return loaded.model_copy(update={"root": tmp_path, "config": config})


def touch_set(root: Path) -> Path:
    for name in SET:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def zip_set() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in SET:
            archive.writestr(name, b"x")
    return stream.getvalue()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "request", refuse)
    monkeypatch.setitem(sys.modules, "kagglehub", ModuleType("kagglehub"))


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, server: FileServer) -> list[str]:
    """A Kaggle that answers; the list of what was asked of it."""
    asked: list[str] = []
    module = ModuleType("kagglehub")

    def download(handle: str, output_dir: str) -> str:
        asked.append(handle)
        touch_set(Path(output_dir))
        return output_dir

    module.dataset_download = download
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setattr(sources.kaggle, "ADDRESS", server.url)
    return asked


@pytest.fixture
def server() -> Iterator[FileServer]:
    cut = Page(zip_set()[:50], announced=len(zip_set()))
    with serve_files({"/set.zip": Page(zip_set()), "/page": Page(b"<html>"), "/short.zip": cut}) as running:
        yield running


# --- a path ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "path"])
def test_folder_is_used_where_it_is(tmp_path: Path, source: str) -> None:
    folder = touch_set(tmp_path / "mine")
    for path in (folder, "mine"):
        found = find_source(make_settings(tmp_path, source=source, path=path))
        assert (found.kind, found.folder, found.notice) == ("path", folder, None)
    assert not (tmp_path / "downloads").exists()


def test_archive_is_unpacked_below_downloads(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(zip_set())
    found = find_source(make_settings(tmp_path, path="set.zip"))
    assert found.folder.parent == tmp_path / "downloads"
    assert (found.folder / SET[0]).exists()


@pytest.mark.parametrize("source", ["auto", "path"])
def test_missing_path_is_an_error_and_never_falls_back(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"nowhere, which does not exist"):
        find_source(make_settings(tmp_path, source=source, path="nowhere"))
    assert not (tmp_path / "downloads").exists()


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(DataError, match="folder or a complete"):
        find_source(make_settings(tmp_path, path="notes.txt"))


# --- one after another -----------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_offline_falls_back_to_synthetic_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])  # whatever earlier tests left there
    with caplog.at_level(logging.WARNING):
        found = find_source(make_settings(tmp_path))
    assert found.kind == "synthetic"
    assert found.notice.startswith("No real images were found. The images are SYNTHETIC: ")
    assert found.notice.endswith(
        "Tried kaggle: www.kaggle.com must answer within 0.5 seconds. Got ConnectionError (offline?)."
    )
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [found.notice]
    assert [attempt.source for attempt in found.attempts] == ["path", "download", "kaggle", "synthetic"]
    assert len(list(found.folder.rglob("*.png"))) == 6 * 4


@pytest.mark.usefixtures("offline")
def test_synthetic_set_is_drawn_once_and_is_no_earlier_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path)
    before = source_fingerprint(settings)
    first = find_source(settings)
    monkeypatch.setattr(synthetic, "write_synthetic_set", lambda *_: pytest.fail("drawn twice"))
    assert find_source(settings) == first
    assert source_fingerprint(settings) == before


@pytest.mark.usefixtures("offline")
def test_interrupted_drawing_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(root: Path, *_: Any) -> None:
        (root / "half.png").touch()
        raise KeyboardInterrupt

    settings = make_settings(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "write_synthetic_set", stop)
        with pytest.raises(KeyboardInterrupt):
            find_source(settings)
    assert list((tmp_path / "downloads").iterdir()) == []
    assert len(list(find_source(settings).folder.rglob("*.png"))) == 24


def test_hanging_network_is_left_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", ModuleType("kagglehub"))
    monkeypatch.setattr(requests, "request", lambda *_, **__: time.sleep(5))
    started = time.monotonic()
    found = find_source(make_settings(tmp_path, timeout_seconds=0.2))
    assert time.monotonic() - started < 4
    assert "no answer in time" in found.attempts[2].outcome


def test_auto_uses_kaggle_then_its_earlier_download(tmp_path: Path, kaggle: list[str]) -> None:
    settings = make_settings(tmp_path)
    assert source_fingerprint(settings)["source"] == "kaggle or synthetic"
    assert find_source(settings).kind == "kaggle"
    again = find_source(settings)
    assert (again.kind, again.notice) == ("download", None)
    assert again.folder == tmp_path / "downloads" / "kaggle-fantacher-neu-metal-surface-defects-data"
    assert kaggle == ["fantacher/neu-metal-surface-defects-data"]
    assert source_fingerprint(settings)["source"] == "download"


@pytest.mark.usefixtures("offline")
def test_auto_uses_what_a_person_put_into_downloads(tmp_path: Path) -> None:
    touch_set(tmp_path / "downloads" / "from-usb")
    (tmp_path / "downloads" / "empty").mkdir()
    assert find_source(make_settings(tmp_path)).folder.name == "from-usb"
    (tmp_path / "downloads" / "archive.zip").write_bytes(zip_set())
    found = find_source(make_settings(tmp_path))
    assert found.kind == "download"
    assert found.folder.name.startswith("unpacked-")


@pytest.mark.usefixtures("offline")
def test_explicit_kaggle_does_not_fall_back(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"www\.kaggle\.com must answer.*ConnectionError"):
        find_source(make_settings(tmp_path, source="kaggle"))


def test_kaggle_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match="pip install kagglehub"):
        find_source(make_settings(tmp_path, source="kaggle"))


def test_kaggle_error_is_told_and_leaves_nothing(
    tmp_path: Path, kaggle: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: str, output_dir: str) -> None:
        touch_set(Path(output_dir))
        raise RuntimeError("403")

    monkeypatch.setattr(sys.modules["kagglehub"], "dataset_download", fail)
    with pytest.raises(DataError, match="403"):
        find_source(make_settings(tmp_path, source="kaggle"))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_synthetic_on_request_and_for_other_classes(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, source="synthetic")
    found = find_source(settings)
    assert found.notice == "The images are SYNTHETIC: results say nothing about real steel."
    assert [attempt.source for attempt in found.attempts] == ["synthetic"]
    schema = settings.data_schema.model_copy(update={"classes": {"Weld": (), "Dent": ()}})
    with pytest.raises(DataError, match=r"six NEU classes.*without crazing"):
        find_source(settings.model_copy(update={"data_schema": schema}))


# --- the network -----------------------------------------------------------------------------


def test_url_is_downloaded_once(tmp_path: Path, server: FileServer) -> None:
    settings = make_settings(tmp_path, source="url", url=f"{server.url}/set.zip")
    before = source_fingerprint(settings)
    found = find_source(settings)
    assert found.kind == "url"
    assert (found.folder / SET[0]).exists()
    assert list((tmp_path / "downloads").iterdir()) == [found.folder]
    (found.folder / "marker").touch()
    assert (find_source(settings).folder / "marker").exists()
    assert source_fingerprint(settings) == before


def test_url_with_sha256(tmp_path: Path, server: FileServer) -> None:
    digest = hashlib.sha256(zip_set()).hexdigest()
    settings = make_settings(tmp_path, source="url", url=f"{server.url}/set.zip", sha256=digest.upper())
    assert (find_source(settings).folder / SET[1]).exists()
    with pytest.raises(DataError, match=f"must have SHA-256 {'0' * 64}. Got {digest}"):
        find_source(make_settings(tmp_path, source="url", url=f"{server.url}/set.zip", sha256="0" * 64))
    assert len(list((tmp_path / "downloads").iterdir())) == 1


@pytest.mark.parametrize(
    ("page", "problem"),
    [("/none.zip", "HTTP status 404"), ("/page", "archive"), ("/short.zip", "must arrive completely")],
)
def test_url_that_gives_no_archive(tmp_path: Path, server: FileServer, page: str, problem: str) -> None:
    with pytest.raises((DataError, DownloadError), match=problem):
        find_source(make_settings(tmp_path, source="url", url=server.url + page))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_url_of_endless_size(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.url, "MAX_BYTES", 10)
    with pytest.raises(DownloadError, match="no more than 10 bytes"):
        find_source(make_settings(tmp_path, source="url", url=f"{server.url}/set.zip"))


def test_url_without_a_server(tmp_path: Path) -> None:
    port = closed_port()
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} must answer within 0.5 seconds"):
        find_source(make_settings(tmp_path, source="url", url=f"http://127.0.0.1:{port}/set.zip"))


# --- fingerprints ----------------------------------------------------------------------------


def test_fingerprint_of_a_folder_follows_names_sizes_and_times(tmp_path: Path) -> None:
    folder = touch_set(tmp_path / "mine")
    settings = make_settings(tmp_path, path="mine")
    first = source_fingerprint(settings)
    find_source(settings)
    (folder / ".DS_Store").touch()
    assert source_fingerprint(settings) == first
    seen = [first]
    image = folder / SET[0]
    for change in (
        lambda: image.write_bytes(b"longer"),
        lambda: os.utime(image, ns=(0, 12345)),
        lambda: image.rename(image.with_name("2.png")),
        lambda: (folder / SET[1]).unlink(),
    ):
        change()
        seen.append(source_fingerprint(settings))
    assert len({str(print_) for print_ in seen}) == 5


def test_fingerprint_of_an_archive_and_of_nothing(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, path="set.zip")
    missing = source_fingerprint(settings)
    (tmp_path / "set.zip").write_bytes(zip_set())
    present = source_fingerprint(settings)
    find_source(settings)
    assert missing != present == source_fingerprint(settings)


def test_fingerprint_is_cheap(tmp_path: Path) -> None:
    for number in range(4000):
        path = tmp_path / "mine" / f"class{number % 6}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settings = make_settings(tmp_path, path="mine")
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        source_fingerprint(settings)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


# --- the table -------------------------------------------------------------------------------


def test_the_settings_offer_the_sources_of_the_table() -> None:
    assert set(get_args(DataSource.model_fields["source"].annotation)) == {"auto", *SOURCES}
    assert set(SOURCE_TITLES) == {*SOURCES, *(source.kind for source in AUTO)}
    assert all(SOURCE_TITLES.values())


def test_a_row_is_all_that_a_new_source_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = SourceKind("shelf", "a shelf", lambda settings: settings.root / "shelf", lambda _: {"board": 3})
    monkeypatch.setitem(SOURCES, shelf.kind, shelf)
    settings = make_settings(tmp_path)
    data = settings.config.data.model_copy(update={"source": "shelf"})
    settings = settings.model_copy(update={"config": settings.config.model_copy(update={"data": data})})
    found = find_source(settings)
    assert (found.kind, found.folder, found.notice) == ("shelf", tmp_path / "shelf", None)
    assert source_fingerprint(settings) == {"source": "shelf", "board": 3}


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_every_source_has_a_fingerprint_that_names_it(tmp_path: Path, kind: str) -> None:
    settings = make_settings(tmp_path, source=kind, path="mine", url="https://example.org/set.zip")
    assert source_fingerprint(settings)["source"] == kind


def test_no_source_is_left_to_try(tmp_path: Path, kaggle: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    settings = make_settings(tmp_path)
    schema = settings.data_schema.model_copy(update={"classes": {"Weld": (), "Dent": ()}})
    with pytest.raises(DataError, match=r"--data FOLDER\. Tried path: .*kagglehub.*six NEU classes") as caught:
        find_source(settings.model_copy(update={"data_schema": schema}))
    assert kaggle == []
    assert "\n" not in str(caught.value)


def test_the_plan_of_a_run_waits_for_no_library_of_images() -> None:
    heavy = "numpy", "PIL", "requests", "kagglehub", "urllib3"
    code = f"import sys, metal_defects.data.sources; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "[]"
