"""Temperature scaling of out-of-fold logits: how well confidence matches accuracy before and after (calibration).

C. Guo, G. Pleiss, Y. Sun & K. Weinberger, "On calibration of modern neural networks" (ICML 2017): one temperature
divides all logits, so that no answer changes, only its confidence.
"""

import numpy as np

from metal_defects.metrics import Score, image_losses
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
    from scipy.special import logsumexp

    logits, labels = _check(logits, labels)
    chance = 1 / (len(labels) + 2)
    true = logits[np.arange(len(labels)), labels]
    targets = (1 - chance) * true + chance * logits.mean(axis=1)

    def cross_entropy(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float((logsumexp(logits / temperature, axis=1) - targets / temperature).mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of logits, (n, C), divided by `temperature`."""
    from scipy.special import softmax

    return softmax(np.asarray(logits, np.float64) / temperature, axis=1)


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


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the one-hot truth, summed over the classes, in [0, 2] (G. Brier, 1950)."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1).mean())


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS, seed: int = 0, groups: np.ndarray | None = None
) -> CalibrationError:
    """Mean gap between confidence and accuracy over bins of equally many images, with a bootstrap interval.

    Equal-mass bins: J. Nixon et al., "Measuring calibration in deep learning" (2019). The measure is never negative
    and chance adds to it, so its bootstrap interval leans upwards, and the more so the fewer the images. What is drawn
    again is groups, not images: A. Davison & D. Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    Args:
        probabilities: (n, C).
        labels: integers in [0, C), (n,).
        bins: at most; never more than images.
        seed: of the resampling.
        groups: images of the same value show one piece of surface, (n,); every image one of its own where None.
    """
    confidence, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order].astype(np.float64)
    count = len(labels)
    edges = _split_evenly(count, bins)
    sizes = np.diff(np.append(edges, count))
    random = np.random.default_rng(seed)
    values = []
    codes = np.unique(order if groups is None else groups[order], return_inverse=True)[1]
    pieces = codes.max() + 1
    for _ in range(RESAMPLES):
        # Repeated where they stand, the confidences stay sorted.
        times = np.bincount(random.integers(0, pieces, pieces), minlength=pieces)[codes]
        drawn = np.repeat(confidence - correct, times)
        values.append(np.abs(np.add.reduceat(drawn, _split_evenly(len(drawn), bins))).sum() / len(drawn))
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(np.abs(np.add.reduceat(confidence - correct, edges)).sum() / count)
    confidences, accuracies = (np.add.reduceat(part, edges) / sizes for part in (confidence, correct))
    rows = zip(sizes.tolist(), confidences.tolist(), accuracies.tolist(), strict=True)
    return CalibrationError(
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        bins=tuple(Bin(count=size, confidence=mean, accuracy=right) for size, mean, right in rows),
    )


def _split_evenly(count: int, bins: int) -> np.ndarray:
    """Where bins of equally many images start; never more bins than images."""
    starts: np.ndarray = np.linspace(0, count, min(bins, count) + 1).astype(int)[:-1]
    return starts


def judge_calibration(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    folds: np.ndarray,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Calibration:
    """Calibration error, cross-entropy and Brier score before and after.

    Args:
        logits: out of fold, (n, C).
        labels: integers in [0, C), (n,).
        temperature: that will be used, fitted to all of them.
        folds: in which fold each image was left out, (n,); "after" uses temperatures fitted on the other folds.
        seed: of the resampling.
        groups: images of the same value show one piece of surface, (n,).
    """
    logits, labels = _check(logits, labels)
    return Calibration(
        images=len(labels),
        errors=int((logits.argmax(axis=1) != labels).sum()),
        temperature=temperature,
        before=_judge_confidence(apply_temperature(logits, 1.0), labels, seed, groups),
        after=_judge_confidence(cross_fit(logits, labels, folds), labels, seed, groups),
    )


def _judge_confidence(
    probabilities: np.ndarray, labels: np.ndarray, seed: int, groups: np.ndarray | None
) -> Confidence:
    return Confidence(
        ece=expected_calibration_error(probabilities, labels, seed=seed, groups=groups),
        negative_log_likelihood=float(image_losses(labels, probabilities).mean()),
        brier=brier(probabilities, labels),
    )


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
