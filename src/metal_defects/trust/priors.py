"""Prior shares of the classes: what a line brings is seldom mixed as the training images are.

Under label shift, where the classes look the same and only their shares differ, an answer for the new mix is the old
one times the ratio of the shares, normalised. M. Saerens, P. Latinne & C. Decaestecker, "Adjusting the outputs of a
classifier to new a priori probabilities", Neural Computation 14 (2002) 21-41, which also finds the new shares in
answers without labels, by expectation maximisation.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from metal_defects.errors import ConfigError
from metal_defects.records import Record

RESAMPLES = 200
STEPS, CONVERGED = 1000, 1e-6


class Priors(Record):
    """Shares of the classes, in their order; each adds up to 1.

    Attributes:
        training: of the images that calibration saw.
        served: that the answers are given for.
    """

    training: tuple[float, ...]
    served: tuple[float, ...]

    @property
    def is_shifted(self) -> bool:
        """Whether the answers are given for another mix than that of the training."""
        return self.served != self.training

    @property
    def log_ratio(self) -> np.ndarray:
        """Logarithms of the served over the training shares, (C,); all 0 where they are the same."""
        return np.log(self.served) - np.log(self.training)

    def shift(self, probabilities: np.ndarray) -> np.ndarray:
        """What probabilities for the training mix, (n, C), become for the served one."""
        return _normalise(probabilities * np.exp(self.log_ratio))

    def weigh(self, labels: np.ndarray) -> np.ndarray:
        """How much each image counts for figures of the served mix, (n,); 1 on average over the training mix."""
        weights: np.ndarray = np.exp(self.log_ratio)[labels]
        return weights


class PriorEstimate(Record):
    """The share of a class among images without labels, and its 95 % interval."""

    name: str
    share: float
    low: float
    high: float


def resolve_priors(
    setting: Literal["training", "uniform"] | Mapping[str, float], classes: Sequence[str], labels: np.ndarray
) -> Priors:
    """The shares that the setting `model_evaluation.priors` stands for.

    Args:
        setting: a word, or the share of every class.
        classes: C names.
        labels: integers in [0, C), of the images that calibration sees. Half an image is added to every class, so that
            none has the share 0.

    Raises:
        ConfigError: the setting names other classes than there are.
    """
    counts = np.bincount(labels, minlength=len(classes)) + 0.5
    training = tuple((counts / counts.sum()).tolist())
    if setting == "training":
        return Priors(training=training, served=training)
    if setting == "uniform":
        return Priors(training=training, served=(1 / len(classes),) * len(classes))
    assert not isinstance(setting, str)
    if set(setting) != set(classes):
        raise ConfigError(
            f"model_evaluation.priors must name the classes {', '.join(classes)}, each with its share. "
            f"Got {', '.join(setting)}."
        )
    total = sum(setting.values())
    return Priors(training=training, served=tuple(setting[name] / total for name in classes))


def estimate_shares(probabilities: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The most likely shares of the classes among images without labels, (C,), by expectation maximisation.

    Args:
        probabilities: calibrated answers, (n, C), n >= 1.
        base: shares that the answers were given for, (C,), each above 0.
    """
    shares, ratios = np.asarray(base, np.float64), probabilities / base
    for _ in range(STEPS):
        before = shares
        shares = _normalise(ratios * before).mean(axis=0)
        if np.abs(shares - before).max() < CONVERGED:
            break
    return shares


def estimate_priors(
    probabilities: np.ndarray, base: np.ndarray, classes: Sequence[str], seed: int = 0
) -> tuple[PriorEstimate, ...]:
    """`estimate_shares` with intervals by bootstrap over the images.

    Args:
        probabilities: calibrated answers, (n, C), n >= 1.
        base: shares that the answers were given for, (C,), each above 0.
        classes: C names.
        seed: of the resampling.
    """
    random, count = np.random.default_rng(seed), len(probabilities)
    found = estimate_shares(probabilities, base)
    drawn = [estimate_shares(probabilities[random.integers(0, count, count)], base) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    rows = zip(classes, found.tolist(), np.minimum(low, found).tolist(), np.maximum(high, found).tolist(), strict=True)
    return tuple(PriorEstimate(name=name, share=share, low=one, high=other) for name, share, one, other in rows)


def _normalise(shares: np.ndarray) -> np.ndarray:
    """Rows that add up to 1, (n, C)."""
    rows: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
    return rows
