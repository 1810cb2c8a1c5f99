"""Verdicts of many answers: each counted once, errors beside them."""

import numpy as np

from metal_defects.evaluation.verdicts import count_verdicts, give_verdicts
from metal_defects.inference.card import VerdictRules

RULES = VerdictRules(unknown_distance=1.0, review_distance=0.9, min_confidence=0.7, set_threshold=0.2, max_risk=0.01)
SHARES = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])


def test_rules_are_applied_to_every_row() -> None:
    distances = np.array([0.5, 0.95, 1.5, np.nan])
    assert give_verdicts(SHARES, distances, ["a", "b"], RULES).tolist() == ["accept", "review", "unknown", "unknown"]
    assert give_verdicts(SHARES, None, ["a", "b"], RULES).tolist() == ["accept"] * 3 + ["review"]


def test_counts_add_up_and_tell_the_errors() -> None:
    verdicts = np.array(["accept", "accept", "review", "unknown", "unknown"])
    counts = count_verdicts(verdicts, np.array([True, False, True, False, True]))
    assert (counts.images, counts.accept, counts.review, counts.unknown) == (5, 2, 1, 2)
    assert (counts.wrong_accept, counts.wrong_review, counts.wrong_unknown) == (1, 1, 1)
