"""What to do with an answer: accept it, have a person look at it, or admit that the surface is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Verdict:
    verdict: str
    reason: str | None
    prediction_set: tuple[str, ...]


def decide(
    probabilities: np.ndarray, distance: float | None, classes: Sequence[str], rules: dict[str, Any]
) -> Verdict:
    best = int(probabilities.argmax())
    return Verdict("accept", None, (classes[best],))
