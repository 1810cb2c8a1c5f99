"""Temperature scaling of out-of-fold logits, and how well confidence matches accuracy before and after.

C. Guo, G. Pleiss, Y. Sun & K. Weinberger, "On calibration of modern neural networks" (ICML 2017): one temperature
divides all logits, so that no answer changes, only its confidence.
"""

from typing import Any

import numpy as np

from metal_defects.metrics import Score
from metal_defects.records import Record

BINS = 15
RESAMPLES = 1000
COLDEST, HOTTEST = 0.05, 20.0


class Bin(Record):
    """Images of like confidence: how many, their mean confidence, and the share of them that is right."""

    count: int
    confidence: float
    accuracy: float


class CalibrationError(Score):
    """The expected calibration error, with the bins that it is the mean of, the least confident first."""

    bins: tuple[Bin, ...]


class Confidence(Record):
    """How good the probabilities are.

    Attributes:
        negative_log_likelihood: nats.
        brier: in [0, 2].
    """

    ece: CalibrationError
    negative_log_likelihood: float
    brier: float


class Calibration(Record):
    """The temperature, and what it did; `after` uses temperatures that were fitted on the other folds."""

    images: int
    errors: int
    temperature: float
    before: Confidence
    after: Confidence


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the lowest cross-entropy, between COLDEST and HOTTEST.

    Where nothing is misjudged, the cross-entropy falls for ever as the temperature goes to 0. As Platt (1999) did for
    the same reason, the targets therefore keep a share of 1 / (n + 2) for chance: what the rule of succession says
    may still go wrong after n answers without an error. With many errors this share does not matter.

    Args:
        logits: out of fold, before the softmax, (n, C).
        labels: integers in [0, C), (n,).
    """
    from scipy.optimize import minimize_scalar

    logits, labels = _check(logits, labels)
    chance = 1 / (len(labels) + 2)
    true = logits[np.arange(len(labels)), labels]
    targets = (1 - chance) * true + chance * logits.mean(axis=1)

    def cross_entropy(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float((_log_sum_exp(logits / temperature) - targets / temperature).mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of logits, (n, C), divided by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    return np.exp(scaled - _log_sum_exp(scaled)[:, None])


def cross_fit(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Calibrated probabilities, (n, C), each with a temperature that was fitted without the image's own fold.

    Args:
        logits: out of fold, (n, C).
        labels: integers in [0, C), (n,).
        folds: in which fold each image was left out, (n,).
    """
    logits, labels = _check(logits, labels)
    probabilities = np.empty_like(logits)
    for fold in np.unique(folds):
        inside = folds == fold
        fitted = ~inside if not inside.all() else inside
        probabilities[inside] = apply_temperature(logits[inside], fit_temperature(logits[fitted], labels[fitted]))
    return probabilities


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log of the true class's probability, nats."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the one-hot truth, summed over the classes, in [0, 2] (G. Brier, 1950)."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1).mean())


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS, seed: int = 0
) -> dict[str, Any]:
    """Mean gap between confidence and accuracy over bins of equally many images, with a bootstrap interval.

    Equal-mass bins: J. Nixon et al., "Measuring calibration in deep learning" (2019). The measure is never negative
    and chance adds to it, so its bootstrap interval leans upwards, and the more so the fewer the images.

    Args:
        probabilities: (n, C).
        labels: integers in [0, C), (n,).
        bins: at most; never more than images.
        seed: of the resampling.

    Returns:
        `value`, `low` and `high` (95 %), all in [0, 1], and `bins`: [{"count", "confidence", "accuracy"}], the least
        confident first.
    """
    confidence, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order].astype(np.float64)
    count = len(labels)
    edges = np.linspace(0, count, min(bins, count) + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, count))
    random = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        # Positions in ascending order keep the confidences sorted.
        drawn = np.sort(random.integers(0, count, count))
        values.append(np.abs(np.add.reduceat(confidence[drawn] - correct[drawn], edges)).sum() / count)
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(np.abs(np.add.reduceat(confidence - correct, edges)).sum() / count)
    confidences, accuracies = (np.add.reduceat(part, edges) / sizes for part in (confidence, correct))
    rows = zip(sizes.tolist(), confidences.tolist(), accuracies.tolist(), strict=True)
    return {
        "value": value,
        "low": min(float(low), value),
        "high": max(float(high), value),
        "bins": [dict(zip(("count", "confidence", "accuracy"), row, strict=True)) for row in rows],
    }


def calibration_report(
    logits: np.ndarray, labels: np.ndarray, temperature: float, folds: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """ECE, cross-entropy and Brier score before and after.

    Args:
        logits: out of fold, (n, C).
        labels: integers in [0, C), (n,).
        temperature: that will be used, fitted to all of them.
        folds: in which fold each image was left out, (n,); "after" uses temperatures fitted on the other folds.
        seed: of the resampling.

    Returns:
        `images`, `errors`, `temperature`, and under `before` and `after` (of `cross_fit`) `ece` (see
        `expected_calibration_error`), `negative_log_likelihood` and `brier`.
    """
    logits, labels = _check(logits, labels)
    stages = {"before": apply_temperature(logits, 1.0), "after": cross_fit(logits, labels, folds)}
    return {
        "images": len(labels),
        "errors": int((logits.argmax(axis=1) != labels).sum()),
        "temperature": temperature,
    } | {
        name: {
            "ece": expected_calibration_error(probabilities, labels, seed=seed),
            "negative_log_likelihood": negative_log_likelihood(probabilities, labels),
            "brier": brier(probabilities, labels),
        }
        for name, probabilities in stages.items()
    }


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    largest = values.max(axis=1)
    return largest + np.log(np.exp(values - largest[:, None]).sum(axis=1))


def _check(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels) or not np.isfinite(logits).all():
        raise ValueError(
            f"logits (n, C) must be finite and labels (n,) must fit, n >= 1. Got {logits.shape} and {labels.shape}, "
            f"{np.isfinite(logits).sum()} of {logits.size} finite, instead."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must be integers in [0, {logits.shape[1]}). Got {labels.min()} to {labels.max()}.")
    return logits, labels
