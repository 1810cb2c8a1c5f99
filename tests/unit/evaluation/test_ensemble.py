"""An ensemble is recommended where it pays, and nowhere else."""

import numpy as np
import pytest

from metal_defects.evaluation.ensemble import Cost, try_ensembles

LABELS = np.zeros(300, int)
COSTS = {name: Cost(gmacs=0.5, milliseconds=4.0) for name in "abc"}


def answer(wrong: slice) -> np.ndarray:
    probabilities = np.tile([0.9, 0.1], (300, 1))
    probabilities[wrong] = [0.4, 0.6]
    return probabilities


def test_models_that_err_on_different_images_pay_together() -> None:
    answers = {"a": answer(slice(0, 30)), "b": answer(slice(30, 62)), "c": answer(slice(62, 100))}
    result = try_ensembles(LABELS, answers, COSTS)
    assert [len(row.models) for row in result.rows] == [1, 2, 3]
    assert result.recommended == ("a", "b")
    assert result.rows[1].errors == 0
    assert result.rows[1].milliseconds == pytest.approx(8.0)
    assert "2.0 times the work" in result.reason


def test_a_gain_of_two_images_does_not_pay() -> None:
    answers = {"a": answer(slice(0, 2)), "b": answer(slice(2, 5)), "c": answer(slice(5, 10))}
    result = try_ensembles(LABELS, answers, COSTS)
    assert result.rows[1].errors < result.rows[0].errors
    assert result.recommended == ("a",)


def test_one_model_and_unknown_costs_are_fine() -> None:
    result = try_ensembles(LABELS, {"a": answer(slice(0, 3))}, {"a": Cost(None, None)})
    assert result.recommended == ("a",)
    assert result.rows[0].gmacs is None
