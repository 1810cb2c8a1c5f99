"""What stage 08 measures of a small run, made of the very types that it writes."""

from typing import Any

import numpy as np

from metal_defects.data.manifest import DataCard
from metal_defects.evaluation.ensemble import EnsembleRow, EnsembleTrial
from metal_defects.evaluation.fold_errors import CrossValidation, Misjudged, Round, Suspect
from metal_defects.evaluation.learning_curve import CurvePoint
from metal_defects.evaluation.results import Evaluation, ModelTitle, Protocol, VerdictCounts, Verdicts
from metal_defects.evaluation.robustness import Robustness, Undamaged
from metal_defects.evaluation.significance import ComparedModel
from metal_defects.inference.card import VerdictRules
from metal_defects.metrics import Metrics, Misnamed, Score, SplitMetrics, classification_metrics, share
from metal_defects.trust.calibration import Bin, Calibration, CalibrationError, Confidence, Scaling
from metal_defects.trust.conformal import ClassCoverage, Coverage, SetScores
from metal_defects.trust.guard import GuardFindings, Quantiles
from metal_defects.trust.locator_scores import Baselines, LocatorFindings, MapScores
from metal_defects.trust.priors import Priors
from metal_defects.trust.selective import Acceptance, RiskCoverage, RiskPoint

# A name that breaks a page, or a table of Markdown, which does not escape it.
EVIL = "<script>alert(1)</script>|x"
CLASSES = ("Crazing", EVIL)
COUNT = 40
SOURCES = tuple(f"IMAGES/{number} {EVIL.replace('/', ' ')}.jpg" for number in range(COUNT))
WRONG = 7
CLEAN = DataCard(kind="path", notice=None)
SEVERITIES = (1, 2, 3, 4, 5)


def make_probabilities() -> np.ndarray:
    """Answers to the images, (COUNT, 2): all right but WRONG."""
    labels = np.arange(COUNT) % 2
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    probabilities[WRONG] = probabilities[WRONG][::-1]
    return probabilities


def make_metrics() -> Metrics:
    return classification_metrics(np.arange(COUNT) % 2, make_probabilities(), CLASSES)


def make_split_metrics() -> SplitMetrics:
    error = Misnamed(source=SOURCES[WRONG], true=EVIL, predicted="Crazing", confidence=0.9)
    return SplitMetrics(**dict(make_metrics()), errors=(error,))


def make_evaluation(**parts: Any) -> Evaluation:
    """An evaluation with a cross-validation of 40 images; `parts` replace its fields."""
    measured: dict[str, Any] = {
        "data": CLEAN,
        "model": ModelTitle(name="toy", title=EVIL, weights="ImageNet"),
        "classes": CLASSES,
        "seconds": {"cross_validation": 12.5},
        "protocol": Protocol(images=COUNT, folds=5, repeats=2, note=None),
        "cross_validation": _cross_validation(),
        "calibration": _calibration(),
        "conformal": _coverage(),
        "guard": GuardFindings(
            taps=("block_8",),
            acceptance=0.99,
            accepted_out_of_fold=share(39, COUNT),
            accepted_held_out=share(71, 72),
            distances=Quantiles(out_of_fold=(0.4, 0.6, 0.8, 1.1), held_out=(0.4, 0.6, 0.9, 1.2)),
        ),
        "priors": Priors(training=(0.5, 0.5), served=(0.5, 0.5)),
        "selection": make_selection(),
        "verdicts": make_verdicts(),
        "locator": LocatorFindings(
            kind="boxes",
            trained_on=COUNT,
            scores=_map_scores(70),
            baselines=Baselines(centre=_map_scores(30), grad_cam=_map_scores(50), share_of_area=0.55),
        ),
        "robustness": make_robustness(),
        "learning_curve": tuple(
            CurvePoint(per_class=size, images=10, draws=3, accuracy=share(9, 10), lowest=0.8, highest=0.95)
            for size in (5, None)
        ),
        "comparison": (
            _compared("toy", 1, None),
            _compared("other", 3, 0.4),
        ),
        "ensemble": EnsembleTrial(
            rows=(_averaged("toy"), _averaged("toy", "other")), recommended=("toy",), reason="No gain."
        ),
    }
    return Evaluation(**measured | parts)


def make_verdicts(**parts: Any) -> Verdicts:
    rules = VerdictRules(
        unknown_distance=1.0, review_distance=0.9, min_confidence=0.8, set_threshold=0.6, max_risk=0.005
    )
    counts = VerdictCounts(
        images=COUNT, accept=36, review=3, unknown=1, wrong_accept=1, wrong_review=0, wrong_unknown=0
    )
    return Verdicts(**{"rules": rules, "out_of_fold": counts, "valid": counts, "test": counts} | parts)


def make_selection(**parts: Any) -> RiskCoverage:
    """62 of 100 at 0.5 %, 75 at 1 %; `parts` replace the fields of what is chosen."""

    def offer(risk: float, accepted: int) -> Acceptance:
        wrong = share(0, accepted)
        return Acceptance(max_risk=risk, threshold=0.93, is_shown=True, accepted=share(accepted, 100), wrong=wrong)

    points = tuple(
        RiskPoint(threshold=1 - one / 100, coverage=one / 100, risk=share(one // 50, one)) for one in (1, 50, 100)
    )
    chosen = offer(0.005, 62).model_copy(update=parts)
    return RiskCoverage(images=100, area=0.004, points=points, chosen=chosen, others=(offer(0.01, 75), offer(0.05, 96)))


def make_robustness() -> Robustness:
    shares = (0.9, 0.9, 0.8, 0.7, 0.6)
    scores = tuple(share(round(COUNT * one), COUNT) for one in shares)
    return Robustness(
        images=COUNT,
        clean=Undamaged(accuracy=share(39, COUNT), accepted=0.9, silent_errors=0.0),
        severities=SEVERITIES,
        levels={"gaussian_noise": (50, 40, 30, 25, 20), "blur": (0.5, 0.8, 1.2, 1.6, 2.0)},
        units={"gaussian_noise": "dB SNR", "blur": "px sigma"},
        accuracy={"gaussian_noise": scores, "blur": scores},
        mean=shares,
        accepted={"gaussian_noise": shares, "blur": shares},
        silent_errors={"gaussian_noise": shares, "blur": shares},
        silent_errors_mean=shares,
        errors_accepted=0.125,
    )


def _cross_validation() -> CrossValidation:
    case = Misjudged(
        source=SOURCES[WRONG],
        picture=f"{WRONG}.png",
        true=EVIL,
        predicted="Crazing",
        confidence=0.9,
        probabilities={"Crazing": 0.9, EVIL: 0.1},
        times=2,
        other_boxes=("Crazing",),
    )
    suspect = Suspect(source=SOURCES[WRONG], picture=case.picture, label=EVIL, suggested="Crazing", confidence=0.9)
    return CrossValidation(
        metrics=make_metrics(),
        accuracy=make_metrics().accuracy,
        repeats=(Round(repeat=1, errors=1, accuracy=0.975, spread_of_folds=None),),
        misjudged=(case,),
        suspects=(suspect,),
    )


def _calibration() -> Calibration:
    def confidence(ece: float) -> Confidence:
        bins = (Bin(count=COUNT, confidence=0.9, accuracy=0.975),)
        error = CalibrationError(value=ece, low=ece / 2, high=2 * ece, bins=bins)
        return Confidence(ece=error, negative_log_likelihood=0.03, brier=0.01)

    return Calibration(
        images=COUNT,
        errors=1,
        scaling=Scaling(temperature=0.8, bias=(0.1, -0.1)),
        before=confidence(0.0112),
        after=confidence(0.0042),
    )


def _coverage() -> Coverage:
    classes = (ClassCoverage(name="Crazing", images=20, covered=1.0), ClassCoverage(name=EVIL, images=0, covered=None))
    sets = SetScores(covered=share(39, COUNT), mean_size=1.1, sizes=(0.0, 0.9, 0.1), per_class=classes)
    return Coverage(coverage=0.99, images=COUNT, threshold=0.6, exact=sets, served=sets)


def _map_scores(hits: int) -> MapScores:
    score = Score(value=0.7, low=0.6, high=0.8)
    return MapScores(
        images=72,
        boxes=150,
        threshold=0.4,
        box_threshold=0.8,
        pointing=share(hits, 72),
        energy=score,
        iou=score,
        ap50=score,
    )


def _compared(name: str, errors: int, p_value: float | None) -> ComparedModel:
    others = {"only_best_wrong": 1, "only_this_wrong": 3, "more_than_chance": False} if p_value else {}
    empty: dict[str, Any] = dict.fromkeys(("only_best_wrong", "only_this_wrong", "more_than_chance"))
    return ComparedModel(model=name, errors=errors, log_loss=0.02, p_value=p_value, **empty | others)


def _averaged(*names: str) -> EnsembleRow:
    return EnsembleRow(
        models=names, errors=1, accuracy=share(39, COUNT), log_loss=0.02, gmacs=0.4, milliseconds=None, p_value=None
    )
