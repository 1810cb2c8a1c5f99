"""What several suites need: settings on a temporary folder, and the real data where it is to be had."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from support import PROJECT
from support.workshop import Workshop, assert_success

from metal_defects import download
from metal_defects.config import Settings, load_settings
from metal_defects.system import remember_interrupts

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What takes long tells how busy the machine is; what must be quick is measured by a test of its own.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# What stands on a run of the pipeline that tests of several files share, and which run that is.
SHARED_RUNS = {"finished": "drawn", "rebuilt": "drawn", "mended": "drawn", "neu_begun": "NEU-DET"}


@pytest.hookimpl(tryfirst=True)  # before the workers read the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait for a run of the pipeline are slow, however quick they are themselves.

    With several workers one of them makes that run and has all its tests; else the tests of a file stay together.
    """
    for item in items:
        shared = {SHARED_RUNS[name] for name in getattr(item, "fixturenames", ()) if name in SHARED_RUNS}
        if shared:
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(*(shared or {str(item.path)})))


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of the project with every folder under `tmp_path`, and the overrides given."""

    def make(*overrides: str) -> Settings:
        folders = [f"paths.{name}={tmp_path / name}" for name in ("artifacts", "logs", "downloads", "weights")]
        return load_settings(PROJECT, [*folders, *overrides], environment={})

    return make


@pytest.fixture
def usual_interrupts() -> Iterator[None]:
    """SIGINT raises `KeyboardInterrupt`, also where the tests run with it ignored, and none is left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    remember_interrupts()


@pytest.fixture
def unasked_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is known to be silent, and those of this machine are asked directly."""
    monkeypatch.setattr(download, "_silent_hosts", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def scanned_once() -> Iterator[None]:
    """Streamlit looks for components in all installed packages once, and not again whenever a test opens an app."""
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session")
def neu_folder() -> Path:
    """NEU-DET as its authors publish it."""
    return _data_folder("METAL_DEFECTS_NEU")


@pytest.fixture(scope="session")
def neu_begun(neu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The pipeline as shipped, with its best backbone alone, on NEU-DET, after its first stage."""
    workshop = Workshop(tmp_path_factory.mktemp("neu"), neu_folder, settings=())
    assert_success(workshop.run("run", "--only", "01"))
    return workshop


@pytest.fixture(scope="session")
def xsdd_folder() -> Path:
    """X-SDD, one folder per class."""
    return _data_folder("METAL_DEFECTS_XSDD")


def _data_folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)
