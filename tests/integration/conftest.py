"""A small set of drawn images, and workshops in which the pipeline runs or has run on it."""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.readings import watch_settings
from support.workshop import IMAGES_PER_CLASS, LONGER, WIDER, Workshop, assert_success, kill_when

from metal_defects.data.synthetic import write_synthetic_set
from metal_defects.pipeline.table import STAGES


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of the six classes; not to be changed."""
    folder = tmp_path_factory.mktemp("images") / "set"
    write_synthetic_set(folder, IMAGES_PER_CLASS, seed=3)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Workshop:
    """A workshop in which everything has run once; not to be changed.

    It also holds stdout.txt, what the run printed, and settings.json, what it read of them.
    """
    workshop = Workshop(tmp_path_factory.mktemp("finished"), images)
    answer = workshop.run(before=partial(watch_settings, workshop.folder / "settings.json"), measured=True)
    assert_success(answer)
    (workshop.folder / "stdout.txt").write_text(answer.stdout)
    return workshop


@pytest.fixture
def copied(finished: Workshop, tmp_path: Path) -> Workshop:
    """A copy of the finished workshop, to be damaged."""
    shutil.copytree(finished.artifacts, tmp_path / "artifacts")
    return replace(finished, folder=tmp_path)


@pytest.fixture(scope="session")
def rebuilt(finished: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop whose run was killed in every stage, the last first, and then ran from nothing; not to be changed."""
    workshop = replace(finished, folder=tmp_path_factory.mktemp("rebuilt"))
    leave_out = shutil.ignore_patterns("feature_banks", "stdout.txt", "settings.json")
    shutil.copytree(finished.artifacts, workshop.artifacts, ignore=leave_out)
    delays = random.Random(1)
    for stage in reversed(STAGES):
        workshop.remove(stage.number)
        partial = workshop.artifacts / f".partial-{stage.name}"
        assert kill_when(workshop, partial.exists, delays.uniform(0, 0.3)), f"{stage.name} was over too soon"
        assert partial.exists()
    assert_success(workshop.run())
    return workshop


@pytest.fixture(scope="session")
def mended(finished: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop whose models were cut short, run again with a longer search and a wider limit; not to be changed."""
    folder = tmp_path_factory.mktemp("mended")
    shutil.copytree(finished.artifacts, folder / "artifacts")
    workshop = replace(finished, folder=folder).with_settings(LONGER, WIDER)
    for path in (workshop.stage("07") / "tuned_model.h5", workshop.stage("06") / "base_efficientnet_lite0.h5"):
        with path.open("r+b") as file:
            file.truncate(1000)
    assert_success(workshop.run())
    return workshop


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
