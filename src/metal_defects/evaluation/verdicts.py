"""Selective classification: what the rules of the verdicts make of many answers, and how many errors they let pass."""

from collections.abc import Sequence

import numpy as np

from metal_defects.evaluation.results import VerdictCounts
from metal_defects.inference.card import VerdictRules
from metal_defects.inference.verdict import VERDICTS, decide


def give_verdicts(
    probabilities: np.ndarray, distances: np.ndarray | None, classes: Sequence[str], rules: VerdictRules
) -> np.ndarray:
    """Verdict of every answer, by name, (images,).

    Args:
        probabilities: calibrated, (images, classes).
        distances: of the guard, (images,).
        classes: names.
        rules: of the verdicts.
    """
    rows = [None] * len(probabilities) if distances is None else distances.tolist()
    pairs = zip(probabilities, rows, strict=True)
    return np.array([decide(shares, distance, classes, rules).verdict for shares, distance in pairs])


def count_verdicts(verdicts: np.ndarray, wrong: np.ndarray) -> VerdictCounts:
    """How many images got each verdict, and how many of them were named wrongly.

    Args:
        verdicts: of `give_verdicts`.
        wrong: bool (images,).
    """
    given = {name: verdicts == name for name in VERDICTS}
    counts = {name: int(rows.sum()) for name, rows in given.items()}
    return VerdictCounts(
        images=len(verdicts), **counts, **{f"wrong_{name}": int((wrong & rows).sum()) for name, rows in given.items()}
    )
