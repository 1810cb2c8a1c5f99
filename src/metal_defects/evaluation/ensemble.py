"""Averages the best base models: what that adds, what it costs, and whether it pays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metal_defects.evaluation.cross_validation import compare_answers, compare_models
from metal_defects.metrics import Score, accuracy_interval
from metal_defects.records import Record
from metal_defects.trust.calibration import negative_log_likelihood

SIGNIFICANT = 0.05


class EnsembleRow(Record):
    """The mean answer of some models.

    Attributes:
        gmacs: 10^9 multiply-adds per image.
        milliseconds: per image; None where unknown.
        p_value: exact McNemar against the best model alone; None for it.
    """

    models: tuple[str, ...]
    errors: int
    accuracy: Score
    log_loss: float
    gmacs: float | None
    milliseconds: float | None
    p_value: float | None


class EnsembleTrial(Record):
    """What averaging the best models gives, which of them to use, and why."""

    rows: tuple[EnsembleRow, ...]
    recommended: tuple[str, ...]
    reason: str


def try_ensembles(
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    costs: Mapping[str, Mapping[str, float | None]],
    most: int = 4,
) -> dict[str, Any]:
    """Mean of the k best models' probabilities, k from 1, each against the best one alone.

    Args:
        labels: int (images,).
        answers: per model, out-of-fold probabilities (images, classes).
        costs: per model, `gmacs` (10^9 multiply-adds per image) and `milliseconds` per image, None where unknown.
        most: models at most.

    Returns:
        `rows` of `models`, `errors`, `accuracy`, `log_loss`, `gmacs`, `milliseconds` and `p_value` (exact McNemar
        against the best model), `recommended` (the names to use) and `reason`, a sentence.
    """
    ranked = [row["model"] for row in compare_models(labels, answers)][:most]
    rows = [_try(labels, answers, costs, ranked[: count + 1]) for count in range(len(ranked))]
    tests = max(len(rows) - 1, 1)
    # Bonferroni: several sizes are tried, and the best of them is taken.
    paying = [row for row in rows[1:] if row["p_value"] * tests < SIGNIFICANT and row["errors"] < rows[0]["errors"]]
    if paying:
        chosen = min(paying, key=lambda row: (row["errors"], len(row["models"])))
        reason = (
            f"The mean of {len(chosen['models'])} models makes {chosen['errors']} errors instead of "
            f"{rows[0]['errors']}, more than chance explains, for {_times(chosen, rows[0])} the work."
        )
    else:
        chosen = rows[0]
        reason = "No mean of several models is better than the best one by more than chance: it is not worth its cost."
    return {"rows": rows, "recommended": chosen["models"], "reason": reason}


def _try(
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    costs: Mapping[str, Mapping[str, float | None]],
    names: list[str],
) -> dict[str, Any]:
    mean = np.mean([answers[name] for name in names], axis=0)
    right, alone = mean.argmax(axis=1) == labels, answers[names[0]].argmax(axis=1) == labels
    low, high = accuracy_interval(int(right.sum()), len(labels))
    return {
        "models": names,
        "errors": int((~right).sum()),
        "accuracy": {"value": float(right.mean()), "low": low, "high": high},
        "log_loss": negative_log_likelihood(mean, labels),
        "gmacs": _add([costs[name].get("gmacs") for name in names]),
        "milliseconds": _add([costs[name].get("milliseconds") for name in names]),
        "p_value": compare_answers(alone, right) if len(names) > 1 else None,
    }


def _add(costs: list[float | None]) -> float | None:
    return None if None in costs else float(sum(costs))


def _times(row: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    for unit in ("milliseconds", "gmacs"):
        if row[unit] is not None and base[unit]:
            return f"{row[unit] / base[unit]:.1f} times"
    return f"{len(row['models'])} times"
