"""Answers out of fold: what calibration makes of them, and the rules of the verdicts that they give rise to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metal_defects.config import ModelEvaluationParams
from metal_defects.evaluation.clock import Clock
from metal_defects.evaluation.cross_validation import OutOfFold
from metal_defects.evaluation.fold_errors import CrossValidation, judge_folds
from metal_defects.evaluation.results import Protocol, VerdictCounts
from metal_defects.evaluation.tuned_run import TunedRun, answer_out_of_fold
from metal_defects.evaluation.verdicts import count_verdicts, give_verdicts
from metal_defects.inference.card import VerdictRules
from metal_defects.log import logger
from metal_defects.trust.calibration import Calibration, cross_fit, judge_calibration
from metal_defects.trust.conformal import Coverage, judge_coverage
from metal_defects.trust.folds import count_groups, make_folds
from metal_defects.trust.priors import Priors, resolve_priors
from metal_defects.trust.selective import Answers, RiskCoverage, cross_fit_thresholds, judge_selection


@dataclass(frozen=True)
class Judged:
    """Answers to images that the heads had not seen, and what calibration makes of them.

    Attributes:
        labels: of the images, (images,).
        folds: in which fold each image was left out, (images,).
        groups: images of the same value show one piece of surface, (images,).
        priors: of the mix that is served.
        probabilities: for that mix, calibrated without the image's own fold, (images, classes).
    """

    protocol: Protocol
    cross_validation: CrossValidation
    labels: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    priors: Priors
    probabilities: np.ndarray
    calibration: Calibration
    conformal: Coverage


@dataclass(frozen=True)
class ChosenRules:
    """The rules of the verdicts, and what they rest on.

    Attributes:
        selection: what may be accepted at the stated risk, and at others.
        out_of_fold: verdicts of the answers out of fold; None where they have no distances.
    """

    rules: VerdictRules
    selection: RiskCoverage
    out_of_fold: VerdictCounts | None


def judge_out_of_fold(run: TunedRun, params: ModelEvaluationParams, clock: Clock) -> Judged:
    """Cross-validation, calibration and conformal sets.

    The cross-validation is told of calibrated answers for the mix of the training images; the sets of possible classes
    and all that follows, of those for the mix that is served.
    """
    split = run.judged
    priors = resolve_priors(params.priors, run.classes, split.labels)
    with clock.time("cross_validation"):
        found = answer_out_of_fold(run, params.folds, params.repeats)
    note, is_network = None, run.judged is run.valid
    if is_network:
        note = (
            f"{run.title} is trained as a whole, so cross-validating it would cost as many trainings as folds: "
            f"calibration and possible classes rest on {len(found.labels)} validation images."
        )
        logger.warning("   %s", note)
    protocol = Protocol(
        images=len(found.labels), folds=len(np.unique(found.folds)), repeats=len(found.logits), note=note
    )
    if is_network:
        # The network saw none of them; calibration and thresholds are nevertheless fitted on some and judged on others.
        found = replace(found, folds=_number_folds(found, params.folds, run.training.seed)[None])
    logits, folds = found.logits.mean(axis=0), found.folds[0]
    rounds = zip(found.logits, found.folds, strict=True)
    calibrated = np.stack([cross_fit(row, found.labels, numbers) for row, numbers in rounds])
    answers = OutOfFold(
        found.labels, np.log(np.maximum(calibrated, 1e-30)).astype(np.float32), found.folds, found.groups
    )
    probabilities = priors.shift(cross_fit(logits, found.labels, folds))
    return Judged(
        protocol=protocol,
        cross_validation=judge_folds(answers, run.classes, split.names),
        labels=found.labels,
        folds=folds,
        groups=found.groups,
        priors=priors,
        probabilities=probabilities,
        calibration=judge_calibration(logits, found.labels, folds, priors, run.training.seed, found.groups),
        conformal=judge_coverage(probabilities, found.labels, folds, found.groups, params.coverage, run.classes),
    )


def _number_folds(found: OutOfFold, folds: int, seed: int) -> np.ndarray:
    """A fold for every image, pieces together, (images,); one for all where a class has one piece alone."""
    numbers = np.zeros(len(found.labels), np.int32)
    fewest = int(count_groups(found.labels, found.groups).min())
    if fewest > 1:
        for number, (_, test) in enumerate(make_folds(found.labels, found.groups, min(folds, fewest), seed)):
            numbers[test] = number
    return numbers


def choose_rules(
    judged: Judged,
    distances: np.ndarray | None,
    review: float | None,
    classes: Sequence[str],
    params: ModelEvaluationParams,
) -> ChosenRules:
    """Accept as many of the answers that the guard lets pass as keep the stated risk.

    Args:
        judged: answers out of fold.
        distances: of the guard, out of fold, (images,), NaN for none; None where it saw other images.
        review: distance beyond which a person looks; None for no such band.
        classes: names.
        params: the stated risk, and the lowest confidence that is ever enough.
    """
    wrong = judged.probabilities.argmax(axis=1) != judged.labels
    confidence = judged.probabilities.max(axis=1)
    if distances is not None:
        confidence = np.where(distances > (1.0 if review is None else review), np.nan, confidence)
    answers = Answers(confidence, wrong, judged.priors.weigh(judged.labels), judged.groups)
    limits = (params.max_risk, params.min_confidence)
    selection = judge_selection(answers, judged.folds, *limits)
    rules = VerdictRules(
        unknown_distance=1.0,
        review_distance=review,
        min_confidence=selection.chosen.threshold,
        set_threshold=judged.conformal.threshold,
        max_risk=params.max_risk,
    )
    counts = None
    if distances is not None:
        thresholds = cross_fit_thresholds(answers, judged.folds, *limits)
        verdicts = _give_cross_fitted(judged.probabilities, distances, thresholds, classes, rules)
        seen = np.isfinite(distances)
        counts = count_verdicts(verdicts[seen], wrong[seen])
    return ChosenRules(rules, selection, counts)


def _give_cross_fitted(
    probabilities: np.ndarray,
    distances: np.ndarray,
    thresholds: np.ndarray,
    classes: Sequence[str],
    rules: VerdictRules,
) -> np.ndarray:
    """Verdicts, (images,), each by the confidence that was chosen without the image's fold; infinite accepts none."""
    verdicts = np.full(len(thresholds), "", dtype="<U7")
    for threshold in np.unique(thresholds):
        rows = thresholds == threshold
        own = rules.model_copy(update={"min_confidence": float(threshold) if np.isfinite(threshold) else None})
        verdicts[rows] = give_verdicts(probabilities[rows], distances[rows], classes, own)
    return verdicts
