"""Stage 07: what proposes the next trial, and what is written of the trials."""

import csv
from pathlib import Path

import keras_tuner
import numpy as np
import pytest

from metal_defects.components.c07_hyperparameter_tuning import OBJECTIVE, _make_oracle, _write_trials
from metal_defects.models.results import Trial

TRIALS = 8


def make_space() -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    space.Float("rate", 0.0, 1.0)
    space.Choice("taps", ["default", "deep"])
    return space


def search(oracle: keras_tuner.Oracle, trials: int) -> list[dict[str, float]]:
    """Play trials whose loss is lowest at a rate of 0.7; the values that were proposed, in order."""
    proposed = []
    for _ in range(trials):
        trial = oracle.create_trial("tuner0")
        values = dict(trial.hyperparameters.values)
        proposed.append(values)
        oracle.update_trial(trial.trial_id, {OBJECTIVE: abs(values["rate"] - 0.7) + (values["taps"] == "deep")})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return proposed


@pytest.fixture
def propose(tmp_path: Path):
    def run(seed: int, folder: str) -> list[dict[str, float]]:
        oracle = _make_oracle("bayesian", make_space(), TRIALS, 1, seed)
        oracle._set_project_dir(str(tmp_path / folder), "trials")
        return search(oracle, TRIALS)

    return run


def test_the_search_comes_close_to_the_lowest_loss(propose) -> None:
    proposed = propose(1, "a")[TRIALS // 2 :]
    best = min(abs(values["rate"] - 0.7) + (values["taps"] == "deep") for values in proposed)
    assert best < 0.1


def test_the_search_is_repeated_by_its_seed(propose) -> None:
    first, again, other = propose(1, "a"), propose(1, "b"), propose(2, "c")
    assert first == again
    assert first != other


def test_hyperband_is_had_by_its_name() -> None:
    oracle = _make_oracle("hyperband", make_space(), 6, 4, 1)
    assert isinstance(oracle, keras_tuner.oracles.HyperbandOracle)
    assert oracle.max_epochs == 4


def test_trials_are_written_with_what_each_was_given(tmp_path: Path) -> None:
    common = {"status": "COMPLETED", "val_accuracy": 0.9, "seconds": 2.0, "epochs": 4, "message": ""}
    trials = [
        Trial(number=0, score=0.5, params={"l2": 0.1}, **common),
        Trial(number=1, score=float(np.float32(0.25)), params={"l2": 0.2, "views": 1}, **common),
    ]
    _write_trials(tmp_path, trials)
    content = (tmp_path / "trials.csv").read_bytes()
    assert b"\r" not in content
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert [row["views"] for row in rows] == ["", "1"]
    assert [(row["val_log_loss"], row["l2"]) for row in rows] == [("0.5", "0.1"), ("0.25", "0.2")]
    assert (tmp_path / "trials.png").exists()
