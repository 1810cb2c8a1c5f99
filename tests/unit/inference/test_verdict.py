"""Verdicts: the words, the order of the rules, and that nothing doubtful is ever accepted."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import PROJECT

from metal_defects.inference.card import VerdictRules
from metal_defects.inference.verdict import VERDICTS, decide, possible_classes

CLASSES = ("Crazing", "Inclusion", "Scratches")
RULES = VerdictRules(unknown_distance=1.0, review_distance=0.9, min_confidence=0.9, set_threshold=0.9, max_risk=0.005)
GRAVITY = tuple(VERDICTS)
shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda row: sum(row) > 0).map(
    lambda row: np.array(row) / sum(row)
)  # fmt: skip
distances = st.none() | st.floats(0, 10)
rules = st.builds(
    VerdictRules,
    unknown_distance=st.floats(0.1, 5),
    review_distance=st.none() | st.floats(0.1, 5),
    min_confidence=st.none() | st.floats(0, 1),
    set_threshold=st.floats(0, 1),
    max_risk=st.floats(0.001, 0.5),
)


@pytest.mark.parametrize(
    ("probabilities", "distance", "verdict", "reason"),
    [
        ([0.01, 0.02, 0.97], 0.4, "accept", None),
        ([0.01, 0.02, 0.97], None, "accept", None),
        ([0.02, 0.37, 0.61], 0.4, "review", "two classes are possible: Scratches 0.61, Inclusion 0.37"),
        ([0.02, 0.37, 0.61], 3.4, "unknown", "this surface is unlike the training images: distance 3.4, limit 1.0"),
        ([0, 0.0, 1.0], 1.004, "unknown", "this surface is unlike the training images: distance 1.004, limit 1.0"),
        ([0, 0.0, 1.0], 0.96, "review", "this surface is almost unlike the training images: distance 0.96, limit 1.0"),
        ([0.3, 0.3, 0.4], 0.1, "review", "three classes are possible: Scratches 0.40, Crazing 0.30, Inclusion 0.30"),
    ],
)
def test_words(probabilities: list[float], distance: float | None, verdict: str, reason: str | None) -> None:
    found = decide(np.array(probabilities), distance, CLASSES, RULES)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_low_confidence_has_words() -> None:
    found = decide(np.array([0.05, 0.03, 0.92]), 0.4, CLASSES, RULES.model_copy(update={"min_confidence": 0.95}))
    assert (found.verdict, found.reason) == ("review", "the confidence is low: Scratches 0.92, 0.95 wanted")


def test_two_possible_classes_do_not_forbid_acceptance() -> None:
    sure = RULES.model_copy(update={"min_confidence": 0.6})
    found = decide(np.array([0.02, 0.37, 0.61]), 0.4, CLASSES, sure)
    assert (found.verdict, found.prediction_set) == ("accept", ("Scratches", "Inclusion"))


def test_no_answer_may_be_accepted() -> None:
    found = decide(np.array([0.0, 0.0, 1.0]), 0.4, CLASSES, RULES.model_copy(update={"min_confidence": None}))
    assert found.verdict == "review"
    assert found.reason == "this model makes too many errors for any answer of it to be accepted"


@given(shares, distances, st.floats(0, 1), st.floats(0, 1))
def test_rules_of_the_first_version_accept_nothing_that_went_to_review(
    probabilities: np.ndarray, distance: float | None, confidence: float, threshold: float
) -> None:
    assume(abs(np.sort(probabilities)[-2] - threshold) > 1e-9)
    old = {"unknown_distance": 1.0, "review_distance": 0.9, "min_confidence": confidence, "set_threshold": threshold}
    found = decide(probabilities, distance, CLASSES, VerdictRules.model_validate(old))
    was_single = possible_classes(probabilities[None], threshold).sum() == 1 and probabilities.max() >= confidence
    assert found.verdict != "accept" or was_single
    if threshold > 0.5:
        assert found.verdict != "review" or not was_single or (distance or 0) > 0.9
    again = VerdictRules.model_validate_json(VerdictRules.model_validate(old).model_dump_json())
    assert again == VerdictRules.model_validate(old), "what was read once is not read as old again"


def test_damaged_rules_are_refused() -> None:
    with pytest.raises(ValidationError):
        VerdictRules.model_validate(RULES.model_dump(exclude={"max_risk"}) | {"set_threshold": "high"})


def test_shares_never_read_as_certain_or_impossible() -> None:
    strict = RULES.model_copy(update={"set_threshold": 0.0002, "min_confidence": 0.9999})
    found = decide(np.array([0.0004, 0.0, 0.9996]), None, CLASSES, strict)
    assert found.reason == "two classes are possible: Scratches 0.9996, Crazing 0.0004"


def test_many_classes_are_cut_short() -> None:
    names = [f"c{index}" for index in range(20)]
    found = decide(np.full(20, 0.05), None, names, RULES.model_copy(update={"set_threshold": 0.05}))
    assert found.reason == "20 classes are possible: c0 0.05, c1 0.05, c2 0.05, c3 0.05, and 16 more"
    assert found.prediction_set == tuple(names)


@given(shares, distances, rules)
def test_rules_hold(probabilities: np.ndarray, distance: float | None, limits: VerdictRules) -> None:
    found = decide(probabilities, distance, CLASSES, limits)
    assert found.verdict in VERDICTS
    assert (found.reason is None) == (found.verdict == "accept")
    assert found.prediction_set[0] == CLASSES[int(probabilities.argmax())]
    assert (found.verdict == "unknown") == (distance is not None and distance > limits.unknown_distance)
    if found.verdict == "accept":
        assert limits.min_confidence is not None and probabilities.max() >= limits.min_confidence
        assert distance is None or limits.review_distance is None or distance <= limits.review_distance


@given(shares, st.floats(0, 10), st.floats(0, 10), rules)
def test_farther_is_never_better(probabilities: np.ndarray, one: float, other: float, limits: VerdictRules) -> None:
    near, far = (decide(probabilities, d, CLASSES, limits).verdict for d in sorted((one, other)))
    assert GRAVITY.index(near) <= GRAVITY.index(far)


@given(shares, distances, rules, st.permutations(range(3)))
def test_order_of_the_classes_does_not_matter(
    probabilities: np.ndarray, distance: float | None, limits: VerdictRules, order: list[int]
) -> None:
    if len(set(probabilities.round(6))) < 3:
        return
    found = decide(probabilities, distance, CLASSES, limits)
    again = decide(probabilities[order], distance, [CLASSES[index] for index in order], limits)
    # Sums in another order may fall on another side of the threshold in the last digit.
    if len(found.prediction_set) == len(again.prediction_set):
        assert found == again


@pytest.mark.parametrize("distance", [math.nan, math.inf])
def test_a_broken_distance_is_unknown(distance: float) -> None:
    assert decide(np.array([0.0, 0.0, 1.0]), distance, CLASSES, RULES).verdict == "unknown"


def test_broken_probabilities_are_never_accepted() -> None:
    assert decide(np.full(3, np.nan), 0.1, CLASSES, RULES).verdict == "review"


def test_float32_from_a_graph() -> None:
    probabilities = np.array([0.02, 0.37, 0.61], np.float32)
    assert decide(probabilities, np.float32(0.4), CLASSES, RULES).reason.endswith("Scratches 0.61, Inclusion 0.37")


def test_rows_are_independent() -> None:
    probabilities = np.array([[0.02, 0.37, 0.61], [0.01, 0.02, 0.97]])
    both = possible_classes(probabilities, 0.9)
    assert both.tolist() == [[False, True, True], [False, False, True]]
    assert both[1:].tolist() == possible_classes(probabilities[1:], 0.9).tolist()


def test_imports_nothing_of_training() -> None:
    names = "('tensorflow', 'sklearn', 'scipy', 'matplotlib')"
    code = f"import sys, metal_defects.inference.verdict; print([name for name in {names} if name in sys.modules])"
    source = {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=source, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
