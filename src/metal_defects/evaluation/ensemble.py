"""Averages the best base models: what that adds, what it costs, and whether it pays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metal_defects.evaluation.significance import SIGNIFICANT, compare_answers, compare_models
from metal_defects.metrics import Score, image_losses, share
from metal_defects.records import Record


@dataclass(frozen=True)
class Cost:
    """What an image costs: 10^9 multiply-adds, and milliseconds; None where unknown."""

    gmacs: float | None
    milliseconds: float | None


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
    labels: np.ndarray, answers: Mapping[str, np.ndarray], costs: Mapping[str, Cost], most: int = 4
) -> EnsembleTrial:
    """Mean of the k best models' probabilities, k from 1, each against the best one alone.

    Args:
        labels: int (images,).
        answers: per model, out-of-fold probabilities (images, classes).
        costs: per model.
        most: models at most.
    """
    ranked = tuple(row.model for row in compare_models(labels, answers))[:most]
    rows = tuple(_try(labels, answers, costs, ranked[: count + 1]) for count in range(len(ranked)))
    alone, tests = rows[0], max(len(rows) - 1, 1)
    # Bonferroni: several sizes are tried, and the best of them is taken.
    paying = [row for row in rows[1:] if (row.p_value or 0) * tests < SIGNIFICANT and row.errors < alone.errors]
    if paying:
        chosen = min(paying, key=lambda row: (row.errors, len(row.models)))
        reason = (
            f"The mean of {len(chosen.models)} models makes {chosen.errors} errors instead of {alone.errors}, "
            f"more than chance explains, for {_tell_cost(chosen, alone)} the work."
        )
    else:
        chosen = alone
        reason = "No mean of several models is better than the best one by more than chance: it is not worth its cost."
    return EnsembleTrial(rows=rows, recommended=chosen.models, reason=reason)


def _try(
    labels: np.ndarray, answers: Mapping[str, np.ndarray], costs: Mapping[str, Cost], names: tuple[str, ...]
) -> EnsembleRow:
    mean = np.mean([answers[name] for name in names], axis=0)
    right, alone = mean.argmax(axis=1) == labels, answers[names[0]].argmax(axis=1) == labels
    return EnsembleRow(
        models=names,
        errors=int((~right).sum()),
        accuracy=share(int(right.sum()), len(labels)),
        log_loss=float(image_losses(labels, mean).mean()),
        gmacs=_add([costs[name].gmacs for name in names]),
        milliseconds=_add([costs[name].milliseconds for name in names]),
        p_value=compare_answers(alone, right) if len(names) > 1 else None,
    )


def _add(costs: list[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _tell_cost(row: EnsembleRow, base: EnsembleRow) -> str:
    for mine, theirs in ((row.milliseconds, base.milliseconds), (row.gmacs, base.gmacs)):
        if mine is not None and theirs:
            return f"{mine / theirs:.1f} times"
    return f"{len(row.models)} times"
