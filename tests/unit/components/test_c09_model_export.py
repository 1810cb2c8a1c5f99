"""Stage 09: what counts as the same answer, and which variant may be the default."""

import numpy as np
import pytest

from metal_defects.components.c09_model_export import check_parity, find_fault
from metal_defects.inference.card import Measured, Parity, VerdictRules
from metal_defects.metrics import Score

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.34, 0.33, 0.33]])
CLASSES = ["Red", "Green", "Blue"]
RULES = VerdictRules(unknown_distance=1.0, review_distance=None, min_confidence=0.0, set_threshold=1.0)
FLOAT32_MILLISECONDS = 10.0


def compare(shares: np.ndarray, tolerance: float, distance: float = 0.5) -> Parity:
    """Parity of three answers with the expected ones, whose distance is 0.5."""
    expected = {"probabilities": EXPECTED, "distance": np.full(3, 0.5)}
    answers = {"probabilities": shares, "distance": np.array([0.5, 0.5, distance])}
    return check_parity(expected, answers, tolerance, CLASSES, RULES)


def shift(by: float) -> Parity:
    """Parity of answers whose last probability is off."""
    return compare(np.add(EXPECTED, [0, 0, by]), 0.05)


def measure(accuracy: float = 1.0, milliseconds: float = 4.0) -> Measured:
    score = Score(value=accuracy, low=0.0, high=1.0, n=3)
    identity = {"file": "model.onnx", "sha256": "", "bytes": 1}
    return Measured(**identity, valid_accuracy=score, test_accuracy=score, milliseconds_per_image=milliseconds)


def judge(measured: Measured, parity: Parity, name: str = "int8") -> str | None:
    return find_fault(name, measured, parity, measure(milliseconds=90.0), FLOAT32_MILLISECONDS)


def test_parity_counts_labels_and_takes_the_worst_difference() -> None:
    answers = EXPECTED.copy()
    answers[2] = [0.33, 0.34, 0.33]
    parity = compare(answers, 0.05)
    assert (parity.images, parity.labels_equal, parity.ok) == (3, 2, False)
    assert parity.max_difference == pytest.approx(0.01)


@pytest.mark.parametrize(("difference", "ok"), [(0.0, True), (9e-5, True), (2e-4, False)])
def test_tolerance(difference: float, ok: bool) -> None:
    answers = np.add(EXPECTED, [difference, -difference, 0])
    assert compare(answers, 1e-4).ok is ok


def test_good_and_fast_int8_has_no_fault() -> None:
    assert judge(measure(), shift(0.0)) is None


@pytest.mark.parametrize(
    ("measured", "parity", "fault"),
    [
        (measure(accuracy=0.99), shift(0.0), "loses 1.00 points of accuracy on valid"),
        (measure(), shift(0.02), "1 of 3 labels differ"),
        (measure(milliseconds=9.0), shift(0.0), "1.11 times the speed of float32"),
        (measure(milliseconds=12.0), shift(0.0), "0.83 times the speed"),
    ],
)
def test_faulty_int8_is_marked(measured: Measured, parity: Parity, fault: str) -> None:
    assert fault in str(judge(measured, parity))


def test_probabilities_beyond_the_tolerance_are_a_fault() -> None:
    assert "more than 0.05" in str(judge(measure(), compare(np.add(EXPECTED, [0.06, 0, 0]), 0.05)))


def test_another_distance_is_a_fault_and_another_verdict_is_counted() -> None:
    assert not compare(EXPECTED, 0.05, distance=0.6).ok
    assert compare(EXPECTED, 0.05, distance=0.5).verdicts_equal == 3
    parity = compare(EXPECTED, 2.0, distance=1.4)
    assert parity.verdicts_equal == 2
    assert "1 of 3 verdicts differ" in str(judge(measure(), parity))


def test_float32_need_not_be_faster_than_itself() -> None:
    assert judge(measure(milliseconds=FLOAT32_MILLISECONDS), shift(0.0), "float32") is None
