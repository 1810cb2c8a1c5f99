"""What goes wrong on real machines: one clear sentence, a non-zero exit code, the traceback in the log, no damage."""

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from support.workshop import Workshop, assert_complete, assert_one_sentence, assert_success

from metal_defects.pipeline.table import STAGES

MEBIBYTE = 1 << 20


def assert_logged(workshop: Workshop) -> None:
    assert "Traceback (most recent call last)" in workshop.log


def own_images(workshop: Workshop, images: Path) -> Workshop:
    """The same with images that may be changed."""
    copy = workshop.folder / "images"
    shutil.copytree(images, copy)
    return replace(workshop, data=copy)


def test_second_run_on_the_same_folder_is_refused(empty: Workshop) -> None:
    empty.artifacts.mkdir()
    with FileLock(empty.artifacts / ".lock"):
        assert_one_sentence(empty.run("run", "--only", "01"), "Another run is using", "paths.artifacts=FOLDER")
    assert_logged(empty)
    assert_success(empty.run("run", "--only", "01"))


def test_source_that_is_not_there(empty: Workshop) -> None:
    nowhere = replace(empty, data=empty.folder / "nowhere")
    assert_one_sentence(nowhere.run(), "nowhere", "does not exist")
    assert_logged(nowhere)
    assert not list(nowhere.artifacts.glob("0*"))


def test_source_that_vanished_between_two_runs(empty: Workshop, images: Path) -> None:
    workshop = own_images(empty, images)
    assert_success(workshop.run("run", "--only", "01"))
    shutil.rmtree(workshop.data)
    assert_one_sentence(workshop.run("run", "--only", "02"), "01_data_ingestion must run first", "--from 01")
    assert_one_sentence(workshop.run(), "does not exist")
    assert (workshop.stage("01") / "manifest.csv").exists(), "the old result must stay"


@pytest.mark.slow
def test_source_that_vanished_between_two_stages(empty: Workshop, images: Path) -> None:
    workshop = own_images(empty, images)
    process = workshop.start("run")
    partial = workshop.artifacts / ".partial-02_data_preprocessing"
    while process.poll() is None and not partial.exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    read_before = len(list(partial.rglob("*.png")))
    shutil.rmtree(workshop.data)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert read_before == 0, "stopped too late to see anything"
    assert process.returncode == 1
    assert "Traceback (most recent call last)" in workshop.log
    assert "cannot be read any more since ingestion" in workshop.log


def test_image_that_was_exchanged_between_two_runs(empty: Workshop, images: Path) -> None:
    workshop = own_images(empty, images)
    assert_success(workshop.run("run", "--only", "01"))
    first, second = sorted((workshop.data / "IMAGES").iterdir())[:2]
    shutil.copyfile(second, first)
    answer = workshop.run("run", "--only", "02")
    assert_one_sentence(answer, "01_data_ingestion must run first", "data (content) changed")


def test_truncated_bundle(copied: Workshop, images: Path) -> None:
    graph = copied.stage("09") / "bundle" / "model.onnx"
    with graph.open("r+b") as file:
        file.truncate(1000)
    image = next((images / "IMAGES").iterdir())
    answer = copied.run("predict", str(image))
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "model.onnx is cut short or was altered" in answer.stderr.splitlines()[-1]
    assert_logged(copied)
    answer = copied.run("plan")
    assert answer.stdout.count("HIT") == len(STAGES) - 2
    words = " ".join(answer.stdout.split())
    assert "model.onnx was altered" in words and "after 09" in words


@pytest.mark.parametrize("file", ["models.json", "../03_dataset_loader/snapshots.json"])
def test_altered_result_of_an_earlier_stage_is_not_built_on(file: str, copied: Workshop) -> None:
    path = (copied.stage("04") / file).resolve()
    path.write_text(path.read_text() + " ")
    answer = copied.run("run", "--only", "07", "--force")
    assert_one_sentence(answer, f"{path.parent.name} must run first", f"{path.name} was altered")


def test_prediction_before_any_training_uses_the_shipped_bundle_and_says_so(empty: Workshop, images: Path) -> None:
    answer = empty.run("predict", str(next((images / "IMAGES").iterdir())))
    assert_success(answer)
    assert "bundles/neu" in "".join(answer.stderr.split())


def test_read_only_artifacts(empty: Workshop, mount: Callable[..., Path]) -> None:
    disk = mount("ro")
    workshop = empty.with_settings(f"paths.artifacts={disk / 'artifacts'}")
    assert_one_sentence(workshop.run(), "read-only", "paths.artifacts=FOLDER", str(disk))
    assert_logged(workshop)


def test_read_only_logs(empty: Workshop, mount: Callable[..., Path]) -> None:
    workshop = empty.with_settings(f"paths.logs={mount('ro') / 'logs'}")
    assert_one_sentence(workshop.run(), "read-only", "logs")


def test_artifacts_where_no_folder_can_be(empty: Workshop) -> None:
    (empty.folder / "file").write_text("")
    workshop = empty.with_settings(f"paths.artifacts={empty.folder / 'file' / 'artifacts'}")
    assert_one_sentence(workshop.run(), str(empty.folder / "file"))
    assert_logged(workshop)


def test_full_disk_for_results_and_log_alike(empty: Workshop, mount: Callable[..., Path]) -> None:
    disk = mount("size=400k")
    workshop = empty.with_settings(f"paths.artifacts={disk / 'artifacts'}", f"paths.logs={disk / 'logs'}")
    assert_one_sentence(workshop.run(), "disk is full")
    assert (disk / "artifacts" / "01_data_ingestion" / "stage.json").exists()
    assert not (disk / "artifacts" / "02_data_preprocessing").exists()


@pytest.mark.slow
def test_disk_that_fills_up_in_every_stage(images: Path, mount: Callable[..., Path]) -> None:
    size = 2 * MEBIBYTE
    disk = mount(f"size={size}")
    workshop = Workshop(disk, images).with_settings(f"paths.logs={disk.parent / 'logs'}")
    stopped_in = set()
    for _ in range(20):
        answer = workshop.run()
        if answer.returncode == 0:
            break
        assert_one_sentence(answer)
        stopped_in.add(max(path.name for path in workshop.artifacts.glob(".partial-*_*")))
        size += max(5 * MEBIBYTE, size // 4)
        mount(f"size={size}")
    assert_complete(workshop)
    assert len(stopped_in) >= 3, stopped_in


@pytest.mark.slow
def test_truncated_model_is_made_again(mended: Workshop, images: Path) -> None:
    assert "base_efficientnet_lite0.h5 was altered" in mended.log
    assert (mended.stage("07") / "tuned_model.h5").stat().st_size > 1000
    assert_complete(mended)
    assert_success(mended.run("predict", "--json", str(next((images / "IMAGES").iterdir()))))
