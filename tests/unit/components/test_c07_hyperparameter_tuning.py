"""Stage 07: what is written of the trials."""

import csv
from pathlib import Path

import numpy as np
from support.model_results import make_trial

from metal_defects.components.c07_hyperparameter_tuning import _write_trials
from metal_defects.models.results import Gap
from metal_defects.models.search import Found


def test_trials_are_written_with_what_each_was_given(tmp_path: Path) -> None:
    compared = {"first_look": False, "gap": Gap(loss=0.0, loss_error=0.0, accuracy=0.0, accuracy_error=0.0)}
    trials = (
        make_trial(0, score=0.5, gmacs=0.4),
        make_trial(1, status="FAILED", score=None, accuracy=None, images=None, gmacs=None, message="no"),
        make_trial(2, score=float(np.float32(0.25)), params={"views": "all", "l2": 0.2}, **compared),
    )
    _write_trials(tmp_path, Found(trials, dict(trials[2].params), "It is the best."))
    content = (tmp_path / "trials.csv").read_bytes()
    assert b"\r" not in content
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [(row["trial"], row["status"]) for row in rows] == [("0", "COMPLETED"), ("1", "FAILED"), ("2", "COMPLETED")]
    assert [(row["log_loss"], row["l2"], row["views"]) for row in rows[::2]] == [
        ("0.5", "0.003", "none"), ("0.25", "0.2", "all"),
    ]  # fmt: skip
    assert [row["gap_loss"] for row in rows] == ["", "", "0.0"]
    assert (rows[1]["log_loss"], rows[0]["gmacs"]) == ("", "0.4")
    assert (tmp_path / "trials.png").exists()
