"""Bias-corrected temperature scaling of out-of-fold logits: how well confidence matches accuracy before and after.

C. Guo, G. Pleiss, Y. Sun & K. Weinberger, "On calibration of modern neural networks" (ICML 2017): one temperature
divides all logits. A. Alexandari, A. Kundaje & A. Shrikumar, "Maximum likelihood with bias-corrected calibration is
hard-to-beat at label shift adaptation" (ICML 2020): a bias per class besides. A head that was trained with class
weights speaks of another mix of the classes than the data has; the bias takes that back, as far as the answers show it.
Each bias is drawn to 0 as if by `BIAS_ANSWERS` answers (a normal prior of that precision): few images leave it there.
"""

import numpy as np

from metal_defects.metrics import Score, image_losses
from metal_defects.records import Record
from metal_defects.trust.priors import Priors

BINS = 15
RESAMPLES = 1000
COLDEST, HOTTEST = 0.05, 20.0
# Measured by benchmarks/acceptance.py: beside the temperature alone 0.02 to 0.09 nats better where class weights met
# uneven classes and the model is weak, at most 0.006 worse elsewhere; without a penalty 60 answers lose up to 0.05.
BIAS_ANSWERS = 10.0


class Scaling(Record):
    """What turns logits into probabilities: softmax(logits / temperature + bias).

    Attributes:
        bias: of every class; empty for none.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, float64, of logits (n, C)."""
        from scipy.special import softmax

        bias = np.array(self.bias) if self.bias else 0.0
        return softmax(np.asarray(logits, np.float64) / self.temperature + bias, axis=1)

    def shift(self, log_ratio: np.ndarray) -> "Scaling":
        """The same for another mix of the classes.

        Args:
            log_ratio: logarithms of the new shares over the old ones, (C,).
        """
        bias = np.array(self.bias) if self.bias else np.zeros(len(log_ratio))
        return Scaling(temperature=self.temperature, bias=tuple((bias + log_ratio).tolist()))


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
    """The scaling, and what it did; `after` uses scalings that were fitted on the other folds.

    Attributes:
        scaling: for the mix of classes that the images have.
    """

    images: int
    errors: int
    scaling: Scaling
    before: Confidence
    after: Confidence


def fit_scaling(logits: np.ndarray, labels: np.ndarray) -> Scaling:
    """The temperature, between COLDEST and HOTTEST, and the biases of the lowest penalised cross-entropy.

    Where nothing is misjudged, the cross-entropy falls for ever as the temperature goes to 0. As Platt (1999) did for
    the same reason, the targets therefore keep a share of 1 / (n + 2) for chance: what the rule of succession says
    may still go wrong after n answers without an error. With many errors this share does not matter.

    Args:
        logits: out of fold, before the softmax, (n, C).
        labels: integers in [0, C), (n,).
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits, labels = _check(logits, labels)
    count, classes = logits.shape
    chance = 1 / (count + 2)
    targets = (1 - chance) * np.eye(classes)[labels] + chance / classes

    def cross_entropy(values: np.ndarray) -> tuple[float, np.ndarray]:
        scaled, bias = logits * np.exp(-values[0]), values[1:]
        log_shares = log_softmax(scaled + bias, axis=1)
        gaps = (np.exp(log_shares) - targets) / count
        penalty = BIAS_ANSWERS / count * bias
        slopes = np.append(-(gaps * scaled).sum(), gaps.sum(axis=0) + penalty)
        return float(-(targets * log_shares).sum() / count + penalty @ bias / 2), slopes

    start = np.append(_fit_log_temperature(logits, targets), np.zeros(classes))
    limits = [(np.log(COLDEST), np.log(HOTTEST))] + [(None, None)] * classes
    found = minimize(cross_entropy, start, jac=True, method="L-BFGS-B", bounds=limits)
    return Scaling(temperature=float(np.exp(found.x[0])), bias=tuple((found.x[1:] - found.x[1:].mean()).tolist()))


def _fit_log_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of the best temperature alone: a search over its whole range, which no scale of the logits leads astray."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def cross_entropy(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits * np.exp(-log_temperature), axis=1)).sum())

    found = minimize_scalar(cross_entropy, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(found.x)


def cross_fit(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Calibrated probabilities, (n, C), each by a scaling that was fitted without the image's own fold.

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
        probabilities[inside] = fit_scaling(logits[fitted], labels[fitted]).apply(logits[inside])
    return probabilities


def brier(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean squared distance to the one-hot truth, summed over the classes, in [0, 2] (G. Brier, 1950)."""
    distances = np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1)
    return float(np.average(distances, weights=weights))


def expected_calibration_error(
    probabilities: np.ndarray,
    labels: np.ndarray,
    bins: int = BINS,
    seed: int = 0,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
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
        weights: how much each image counts, (n,); all the same where None.
        groups: images of the same value show one piece of surface, (n,); every image one of its own where None.
    """
    confidence, correct = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    mass = np.ones(len(labels)) if weights is None else weights[order].astype(np.float64)
    confidence, correct = confidence[order], correct[order].astype(np.float64)
    gaps, count = mass * (confidence - correct), len(labels)
    edges = _split_evenly(count, bins)
    random = np.random.default_rng(seed)
    values = []
    codes = np.unique(order if groups is None else groups[order], return_inverse=True)[1]
    pieces = codes.max() + 1
    for _ in range(RESAMPLES):
        # Repeated where they stand, the confidences stay sorted.
        times = np.bincount(random.integers(0, pieces, pieces), minlength=pieces)[codes]
        drawn = np.repeat(gaps, times)
        starts = _split_evenly(len(drawn), bins)
        values.append(np.abs(np.add.reduceat(drawn, starts)).sum() / np.repeat(mass, times).sum())
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(np.abs(np.add.reduceat(gaps, edges)).sum() / mass.sum())
    masses = np.add.reduceat(mass, edges)
    confidences, accuracies = (np.add.reduceat(mass * part, edges) / masses for part in (confidence, correct))
    sizes = np.diff(np.append(edges, count))
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
    folds: np.ndarray,
    priors: Priors,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Calibration:
    """Calibration error, cross-entropy and Brier score before and after, of the mix of classes that is served.

    Args:
        logits: out of fold, (n, C).
        labels: integers in [0, C), (n,).
        folds: in which fold each image was left out, (n,); "after" uses scalings fitted on the other folds.
        priors: images count by them, so that the figures are those of the mix that is served.
        seed: of the resampling.
        groups: images of the same value show one piece of surface, (n,).
    """
    logits, labels = _check(logits, labels)
    weights = priors.weigh(labels)
    pairs = (Scaling().apply(logits), cross_fit(logits, labels, folds))
    before, after = (_judge_confidence(priors.shift(shares), labels, weights, seed, groups) for shares in pairs)
    errors = int((pairs[1].argmax(axis=1) != labels).sum())
    return Calibration(
        images=len(labels), errors=errors, scaling=fit_scaling(logits, labels), before=before, after=after
    )


def _judge_confidence(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int, groups: np.ndarray | None
) -> Confidence:
    return Confidence(
        ece=expected_calibration_error(probabilities, labels, seed=seed, weights=weights, groups=groups),
        negative_log_likelihood=float(np.average(image_losses(labels, probabilities), weights=weights)),
        brier=brier(probabilities, labels, weights),
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
