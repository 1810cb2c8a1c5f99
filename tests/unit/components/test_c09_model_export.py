"""Stage 09: what counts as the same answer, and which variant may be the default."""

from typing import Any

import numpy as np
import pytest

from metal_defects.components.c09_model_export import check_parity, find_fault

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.34, 0.33, 0.33]])
CLASSES = ["Red", "Green", "Blue"]
RULES = {"unknown_distance": 1.0, "review_distance": None, "min_confidence": 0.0, "set_threshold": 1.0}


def compare(shares: np.ndarray, tolerance: float, distance: float = 0.5) -> dict[str, Any]:
    """Parity of three answers with the expected ones, whose distance is 0.5."""
    expected = {"probabilities": EXPECTED, "distance": np.full(3, 0.5)}
    answers = {"probabilities": shares, "distance": np.array([0.5, 0.5, distance])}
    return check_parity(expected, answers, tolerance, CLASSES, RULES)


def make_row(accuracy: float = 1.0, milliseconds: float = 10.0, shift: float = 0.0) -> dict[str, Any]:
    scores = {f"{split}_accuracy": {"value": accuracy, "low": 0.0, "high": 1.0, "n": 3} for split in ("valid", "test")}
    return scores | {
        "milliseconds_per_image": milliseconds,
        "parity": compare(np.add(EXPECTED, [0, 0, shift]), 0.05),
    }


def make_rows(int8: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"keras": make_row(milliseconds=90.0), "float32": make_row(), "int8": int8}


def test_parity_counts_labels_and_takes_the_worst_difference() -> None:
    answers = EXPECTED.copy()
    answers[2] = [0.33, 0.34, 0.33]
    parity = compare(answers, 0.05)
    assert (parity["images"], parity["labels_equal"], parity["ok"]) == (3, 2, False)
    assert parity["max_difference"] == pytest.approx(0.01)


@pytest.mark.parametrize(("difference", "ok"), [(0.0, True), (9e-5, True), (2e-4, False)])
def test_tolerance(difference: float, ok: bool) -> None:
    answers = np.add(EXPECTED, [difference, -difference, 0])
    assert compare(answers, 1e-4)["ok"] is ok


def test_good_and_fast_int8_has_no_fault() -> None:
    assert find_fault("int8", make_rows(make_row(milliseconds=4.0))) is None


@pytest.mark.parametrize(
    ("int8", "fault"),
    [
        (make_row(accuracy=0.99, milliseconds=4.0), "loses 1.00 points of accuracy on valid"),
        (make_row(milliseconds=4.0, shift=0.02), "1 of 3 labels differ"),
        (make_row(milliseconds=9.0), "1.11 times the speed of float32"),
        (make_row(milliseconds=12.0), "0.83 times the speed"),
    ],
)
def test_faulty_int8_is_marked(int8: dict[str, Any], fault: str) -> None:
    assert fault in find_fault("int8", make_rows(int8))


def test_probabilities_beyond_the_tolerance_are_a_fault() -> None:
    rows = make_rows(make_row(milliseconds=4.0))
    rows["int8"]["parity"] = compare(np.add(EXPECTED, [0.06, 0, 0]), 0.05)
    assert "more than 0.05" in find_fault("int8", rows)


def test_another_distance_is_a_fault_and_another_verdict_is_counted() -> None:
    assert not compare(EXPECTED, 0.05, distance=0.6)["ok"]
    assert compare(EXPECTED, 0.05, distance=0.5)["verdicts_equal"] == 3
    rows = make_rows(make_row(milliseconds=4.0))
    rows["int8"]["parity"] = compare(EXPECTED, 2.0, distance=1.4)
    assert rows["int8"]["parity"]["verdicts_equal"] == 2
    assert "1 of 3 verdicts differ" in find_fault("int8", rows)


def test_float32_need_not_be_faster_than_itself() -> None:
    assert find_fault("float32", make_rows(make_row())) is None
