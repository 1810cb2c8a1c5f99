"""The process dies at any moment: the same command goes on, repeats no finished work and ends with the same result."""

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.stages import find_stage
from support.workshop import (
    LONGER,
    TRIALS,
    Workshop,
    assert_complete,
    assert_one_sentence,
    assert_success,
    assert_whole,
    kill_when,
    read_rows,
)

from metal_defects.pipeline.table import STAGES

pytestmark = pytest.mark.slow


def trial_is(workshop: Workshop, number: int, status: str) -> bool:
    for path in workshop.artifacts.glob(f".resume/07*/trials/trial_{number:04}/trial.json"):
        try:
            return json.loads(path.read_text())["status"] == status
        except json.JSONDecodeError:
            return False
    return False


def assert_same_search(found: Workshop, expected: Workshop) -> None:
    """The same trials but for rounding."""
    for row, other in zip(*(read_rows(w.stage("07") / "trials.csv") for w in (found, expected)), strict=True):
        for name in row.keys() - {"seconds", "accuracy", "damaged_accuracy"}:
            try:
                assert float(row[name]) == pytest.approx(float(other[name]), rel=0.02), name
            except ValueError:
                assert row[name] == other[name]


def test_killed_in_every_stage(rebuilt: Workshop) -> None:
    assert_complete(rebuilt)
    for stage in STAGES:
        assert rebuilt.log.count(f"{stage.name}  done in") == 1, "a finished stage must not run again"


def test_killed_at_random_moments(copied: Workshop) -> None:
    copied.remove(*(stage.number for stage in STAGES if stage.number >= "06"))
    shutil.rmtree(copied.artifacts / "feature_banks")
    delays = random.Random(2)
    kills = 0
    while kills < 5 and kill_when(copied, lambda: True, delays.uniform(0.2, 5)):
        kills += 1
    assert kills >= 2
    assert_success(copied.run())
    assert_complete(copied)


def test_killed_after_the_first_of_two_models(copied: Workshop) -> None:
    workshop = copied.with_settings("training.from_scratch.epochs=1")
    models = ("--models", "efficientnet_lite0,custom_cnn")

    def second_has_begun() -> bool:
        return any(workshop.artifacts.glob(".resume/06*/custom_cnn"))

    assert kill_when(workshop, second_has_begun, 0.5, *models)
    (first,) = workshop.artifacts.glob(".resume/06*/efficientnet_lite0/result.json")
    before = first.read_text()
    assert_success(workshop.run("run", "--only", "06", *models))
    assert "EfficientNet-Lite0: kept from an interrupted run" in workshop.log
    assert (workshop.stage("06") / "efficientnet_lite0" / "result.json").read_text() == before
    board = workshop.read("06_model_training_evaluation/leaderboard.json")
    assert {model["name"] for model in board["models"]} == {"efficientnet_lite0", "custom_cnn"}


@pytest.fixture(scope="module")
def killed(finished: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A longer search, killed in its third trial; not to be changed."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(finished.artifacts, folder / "artifacts")
    workshop = replace(finished, folder=folder).with_settings(LONGER)
    assert kill_when(workshop, lambda: trial_is(workshop, 2, "RUNNING"))
    assert trial_is(workshop, 1, "COMPLETED")
    return workshop


@pytest.fixture
def revived(killed: Workshop, tmp_path: Path) -> Iterator[Workshop]:
    shutil.copytree(killed.artifacts, tmp_path / "artifacts")
    return replace(killed, folder=tmp_path)


def test_search_goes_on_where_it_was_killed(revived: Workshop) -> None:
    (state,) = revived.artifacts.glob(".resume/07*/trials")
    finished_trials = {number: (state / f"trial_{number:04}" / "trial.json").read_text() for number in (0, 1)}
    assert_success(revived.run())
    for number, before in finished_trials.items():
        after = (revived.stage("07") / "trials" / f"trial_{number:04}" / "trial.json").read_text()
        assert after == before, f"trial {number} was finished and must not be repeated"
    rows = read_rows(revived.stage("07") / "trials.csv")
    assert [(row["trial"], row["status"]) for row in rows] == [(str(number), "COMPLETED") for number in range(TRIALS)]
    assert_complete(revived)


def test_search_killed_after_its_last_trial_only_fits_the_winner(copied: Workshop, mended: Workshop) -> None:
    workshop = copied.with_settings(LONGER)
    assert kill_when(workshop, lambda: trial_is(workshop, TRIALS - 1, "COMPLETED"))
    assert_success(workshop.run("run", "--only", "07"))
    assert_same_search(workshop, mended)
    assert_whole(workshop, [find_stage("07")])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("oracle.json", "torn"),
        ("oracle.json", "gone"),
        ("trial_0002/trial.json", "empty"),
        ("trial_0002/trial.json", "gone"),
        ("tuner0.json", "empty"),
    ],
)
def test_search_whose_state_was_torn_by_the_crash(file: str, damage: str, revived: Workshop) -> None:
    (path,) = revived.artifacts.glob(f".resume/07*/trials/{file}")
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text()[:40] if damage == "torn" else "")
    assert_success(revived.run("run", "--only", "07"))
    rows = read_rows(revived.stage("07") / "trials.csv")
    assert [(row["trial"], row["status"]) for row in rows] == [(str(number), "COMPLETED") for number in range(TRIALS)]
    assert_whole(revived, [find_stage("07")])


def test_second_process_is_refused_and_does_the_first_no_harm(copied: Workshop) -> None:
    first = copied.start("run", "--only", "02", "--force")
    while first.poll() is None and not (copied.artifacts / ".partial-02_data_preprocessing").exists():
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # else it may be over before the second has begun
    assert_one_sentence(copied.run("run", "--force"), "Another run is using")
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate()
    assert first.returncode == 0, f"{out}\n{err}"
    assert f"{len(STAGES) - 1} of {len(STAGES)} stages up to date" in copied.run().stdout, (
        "the report tells when each stage ran, and nothing else"
    )
    assert_complete(copied)


@pytest.mark.parametrize("number", ["02", "06"])
def test_interrupt_by_the_user_says_how_to_go_on(number: str, copied: Workshop) -> None:
    process = copied.start("run", "--only", number, "--force")
    partial = copied.artifacts / f".partial-{copied.stage(number).name}"
    while process.poll() is None and not partial.exists():
        time.sleep(0.005)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, f"{out}\n{err}"
    assert "Interrupted" in err
    assert len(err.strip().splitlines()) == 1
    assert_success(copied.run())
    assert_complete(copied)
