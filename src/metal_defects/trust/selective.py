"""Selective classification: accept the most confident answers, as many as a stated risk allows.

Y. Geifman & R. El-Yaniv, "Selective classification for deep neural networks" (NeurIPS 2017): the risk is the share of
wrong answers among the accepted ones, the coverage the share of all answers that are accepted. The threshold is chosen
on n answers out of fold, where it is easy to be lucky. Therefore the next answer counts as wrong beforehand: as many
are accepted as keep (1 + wrong) / accepted within the risk. That is the correction of conformal selection (Y. Jin & E.
Candès, Journal of Machine Learning Research 24 (2023)), which keeps the risk on average over data sets like this one. A
95 % bound, as of Geifman & El-Yaniv, accepts much less: of simulated models of 95 % accuracy, on 1,000 answers and at a
risk of 0.5 %, it accepts 30 of 100 answers, this rule 76 (`benchmarks/acceptance.py`).

Counting needs answers: a risk of 0.5 % takes 200 without an error. Where there are fewer, the calibrated confidence
stands in for the count: as many are accepted as keep the mean of 1 - confidence within the risk, as long as none was
wrong. The highest probability ranks the answers; margin and entropy rank no better once it is calibrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.metrics import Score, accuracy_interval, design_effect
from metal_defects.records import Record

# Besides the one that is stated in the settings, for comparison.
STATED = (0.005, 0.01, 0.02, 0.05)
POINTS = 100


class RiskPoint(Record):
    """A point of the curve: what is accepted from a confidence on, and how much of it is wrong, with 95 % interval."""

    threshold: float
    coverage: float
    risk: Score


class Acceptance(Record):
    """What may be accepted within a stated risk; measured with thresholds that were chosen on the other folds.

    Attributes:
        max_risk: that is stated.
        threshold: confidence from which an answer is accepted, chosen on all answers; None where none is.
        is_shown: whether counted answers show that the risk is kept; else calibrated confidence vouches for it.
        accepted: share of all answers.
        wrong: share of the accepted answers; None where none is accepted.
    """

    max_risk: float
    threshold: float | None
    is_shown: bool
    accepted: Score
    wrong: Score | None


class RiskCoverage(Record):
    """The trade-off between what is accepted and what of it is wrong.

    Attributes:
        images: answers out of fold.
        area: below the curve: the mean risk over all thresholds; 0 for a model whose errors are its least sure answers
            and next to none.
        points: of the curve, the most confident first.
        chosen: at the risk of the settings.
        others: at other risks, the smallest first.
    """

    images: int
    area: float
    points: tuple[RiskPoint, ...]
    chosen: Acceptance
    others: tuple[Acceptance, ...]


@dataclass(frozen=True)
class Answers:
    """Answers out of fold.

    Attributes:
        confidence: calibrated, (n,); NaN where the answer may not be accepted whatever it is.
        wrong: bool (n,).
        weights: how much each counts, (n,).
        groups: images of the same value show one piece of surface, (n,).
    """

    confidence: np.ndarray
    wrong: np.ndarray
    weights: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> "Answers":
        """Some of them."""
        return Answers(self.confidence[rows], self.wrong[rows], self.weights[rows], self.groups[rows])

    def share(self, hits: np.ndarray) -> Score:
        """Weighted share of those that `hits`, bool (n,), names, with its interval.

        The interval is that of as many equal answers as tell as much: Kish's effective number, and pieces of surface
        instead of images as far as images of one piece go together.
        """
        value = float(np.average(hits, weights=self.weights))
        equal = float(self.weights.sum() ** 2 / np.square(self.weights).sum())
        count = max(1, round(equal / design_effect(hits, self.groups)))
        low, high = accuracy_interval(round(value * count), count)
        return Score(value=value, low=min(low, value), high=max(high, value), n=len(hits))

    def rank(self) -> "Answers":
        """Those that may be accepted, the most confident first."""
        order = np.argsort(-self.confidence, kind="stable")
        return self.take(order[: np.isfinite(self.confidence).sum()])


def choose_threshold(answers: Answers, max_risk: float) -> tuple[float | None, bool]:
    """The lowest confidence from which the risk is kept, None for none; and whether counted answers show it.

    A higher risk never gives a higher threshold.

    Args:
        answers: out of fold, n >= 1.
        max_risk: share of the accepted answers that may be wrong, in (0, 1).
    """
    ranked = answers.rank()
    accepted, wrong = np.cumsum(ranked.weights), np.cumsum(ranked.weights * ranked.wrong)
    expected = np.cumsum(ranked.weights * (1 - ranked.confidence))
    # Rounding must not turn 1 of 200 into more than 0.005.
    allowed = max_risk * accepted * (1 + 1e-9)
    shown = wrong + answers.weights.max() <= allowed
    vouched = (wrong == 0) & (expected <= allowed)
    # None is accepted without its equals.
    last = np.append(np.diff(ranked.confidence) < 0, True)[: len(accepted)]
    kept = np.flatnonzero((shown | vouched) & last)
    if not len(kept):
        return None, False
    return float(ranked.confidence[kept[-1]]), bool(shown[kept[-1]])


def cross_fit_thresholds(answers: Answers, folds: np.ndarray, max_risk: float, floor: float) -> np.ndarray:
    """For every answer the threshold that was chosen without its fold, (n,); infinite where none is accepted.

    Args:
        answers: out of fold.
        folds: in which fold each image was left out, (n,).
        max_risk: share of the accepted answers that may be wrong.
        floor: no threshold is lower.
    """
    thresholds = np.full(len(folds), np.inf)
    for fold in np.unique(folds):
        inside = folds == fold
        chosen, _ = choose_threshold(answers.take(~inside if not inside.all() else inside), max_risk)
        if chosen is not None:
            thresholds[inside] = max(chosen, floor)
    return thresholds


def judge_selection(answers: Answers, folds: np.ndarray, max_risk: float, floor: float) -> RiskCoverage:
    """The curve, and what may be accepted at the stated risk and at others.

    Args:
        answers: out of fold, n >= 1.
        folds: in which fold each image was left out, (n,).
        max_risk: share of the accepted answers that may be wrong, in (0, 1).
        floor: no answer of a lower confidence is accepted.
    """
    return RiskCoverage(
        images=len(folds),
        area=_measure_area(answers),
        points=_draw_points(answers),
        chosen=_judge(answers, folds, max_risk, floor),
        others=tuple(_judge(answers, folds, risk, floor) for risk in STATED if risk != max_risk),
    )


def _judge(answers: Answers, folds: np.ndarray, max_risk: float, floor: float) -> Acceptance:
    threshold, is_shown = choose_threshold(answers, max_risk)
    accepted = answers.confidence >= cross_fit_thresholds(answers, folds, max_risk, floor)
    return Acceptance(
        max_risk=max_risk,
        threshold=None if threshold is None else max(threshold, floor),
        is_shown=is_shown,
        accepted=answers.share(accepted),
        wrong=answers.take(accepted).share(answers.wrong[accepted]) if accepted.any() else None,
    )


def _measure_area(answers: Answers) -> float:
    ranked = answers.rank()
    if not len(ranked.wrong):
        return 0.0
    risks = np.cumsum(ranked.weights * ranked.wrong) / np.cumsum(ranked.weights)
    return float(np.average(risks, weights=ranked.weights))


def _draw_points(answers: Answers) -> tuple[RiskPoint, ...]:
    """Evenly spaced along the ranked answers."""
    ranked, total = answers.rank(), answers.weights.sum()
    sizes: Sequence[int] = np.unique(np.linspace(1, len(ranked.wrong), POINTS).round().astype(int)).tolist()
    return tuple(
        RiskPoint(
            threshold=float(ranked.confidence[size - 1]),
            coverage=float(ranked.weights[:size].sum() / total),
            risk=ranked.take(np.arange(size)).share(ranked.wrong[:size]),
        )
        for size in sizes
        if len(ranked.wrong)
    )
