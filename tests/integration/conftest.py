"""A small set of drawn images, and workshops in which the pipeline runs or has run on it."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.workshop import IMAGES_PER_CLASS, Workshop, assert_success

from metal_defects.data.synthetic import write_synthetic_set


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of the six classes; not to be changed."""
    folder = tmp_path_factory.mktemp("images") / "set"
    write_synthetic_set(folder, IMAGES_PER_CLASS, seed=3)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Workshop:
    """A workshop in which everything has run once; not to be changed."""
    workshop = Workshop(tmp_path_factory.mktemp("finished"), images)
    answer = workshop.run()
    assert_success(answer)
    (workshop.folder / "stdout.txt").write_text(answer.stdout)
    return workshop


@pytest.fixture
def copied(finished: Workshop, tmp_path: Path) -> Workshop:
    """A copy of the finished workshop, to be damaged."""
    shutil.copytree(finished.artifacts, tmp_path / "artifacts")
    return replace(finished, folder=tmp_path)


@pytest.fixture
def empty(tmp_path: Path, images: Path) -> Workshop:
    """A workshop in which nothing has run."""
    return Workshop(tmp_path, images)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a folder on a disk of its own, or changes its options: `mount("size=1m")`, then `mount("size=2m")`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def apply(options: str) -> Path:
        nonlocal mounted
        change = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", change, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a disk can only be mounted by root: {error}")
        mounted = True
        return folder

    yield apply
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
