"""The linear head at its optimum: multinomial logistic regression, solved rather than trained.

The problem is convex: weighted cross-entropy plus `l2` times the squared kernel, on standardised features. It is solved
by L-BFGS (D. Liu & J. Nocedal, Mathematical Programming 45 (1989) 503-528) in float64. A quadratic penalty does not see
a rotation, so the features are first turned to their principal axes: where there are fewer rows than columns that makes
every step cheaper, and dividing each axis by the square root of its curvature makes the steps few (30 to 60).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.models.networks import build_head, floor_variance

if TYPE_CHECKING:
    import keras

# From hardly more than the classes' shares to hardly a penalty; half an order of magnitude hardly moves an answer.
PENALTIES = (1.0, 0.1, 0.01, 0.001, 0.0001)
# Gradient at which a solution counts as found: of a trial, and of what is kept.
TRIAL_TOLERANCE, FINAL_TOLERANCE = 1e-4, 1e-5
MOST_STEPS = 500
# Typical p (1 - p) of a class, by which the curvature of an axis is judged.
CURVATURE = 0.15
# More axes than this change no answer, and finding them takes time as the cube of their number.
MOST_AXES = 1500
# Below the first axis by this factor an axis is rounding error.
FLATTEST = 1e-10
# Logit of a class without a training image: nothing falls below it.
ABSENT = -1e3


@dataclass(frozen=True)
class LinearHead:
    """Logits are (features - mean) / deviation · kernel + bias.

    Attributes:
        mean, variance: of the training features, float64 (columns,).
        kernel: float64 (columns, classes).
        bias: float64 (classes,).
        l2: penalty that it was solved with.
    """

    mean: np.ndarray
    variance: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    l2: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits of feature vectors (rows, columns), float32 (rows, classes)."""
        standardised = (features - self.mean) / np.sqrt(self.variance)
        return (standardised @ self.kernel + self.bias).astype(np.float32)

    def to_keras(self) -> "keras.Model":
        """From feature vectors to probabilities, as `build_head` makes it."""
        head = build_head(self.mean, self.variance, len(self.bias), hidden_units=0, dropout=0.0, l2=self.l2)
        head.get_layer("probabilities").set_weights([self.kernel, self.bias])
        return head


@dataclass(frozen=True)
class _Axes:
    """Principal axes of standardised rows.

    Attributes:
        mean, variance: of the columns, (columns,).
        directions: one axis per column, (columns, axes).
        spreads: variance along each axis, (axes,).
        coordinates: of the rows, (rows, axes).
    """

    mean: np.ndarray
    variance: np.ndarray
    directions: np.ndarray
    spreads: np.ndarray
    coordinates: np.ndarray


def solve_path(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = TRIAL_TOLERANCE,
) -> Iterator[LinearHead]:
    """The optimal head of each penalty, each from where the one before ended; stop when enough were seen.

    Args:
        features: (rows, columns).
        targets: shares of the classes in each row, adding up to 1, (rows, classes); a class that no row has gets no
            chance.
        weights: of the rows, not negative, (rows,).
        penalties: `l2`, falling: the stronger ones are solved faster, and lead to the weaker ones.
        tolerance: largest component of the gradient in the scaled axes.
    """
    axes = _find_axes(features)
    present = np.flatnonzero(targets.sum(axis=0) > 0)
    shares = targets[:, present].astype(np.float64)
    scaled_weights = weights.astype(np.float64)[:, None] / weights.sum()
    kernel, bias = np.zeros((len(axes.spreads), len(present))), np.zeros(len(present))
    for l2 in penalties:
        kernel, bias = _solve(axes, shares, scaled_weights, l2, kernel, bias, tolerance)
        full_kernel, full_bias = np.zeros((features.shape[1], targets.shape[1])), np.full(targets.shape[1], ABSENT)
        full_kernel[:, present], full_bias[present] = axes.directions @ kernel, bias
        yield LinearHead(axes.mean, axes.variance, full_kernel, full_bias, l2)


def _find_axes(features: np.ndarray) -> _Axes:
    rows = features.astype(np.float64)
    mean, variance = rows.mean(axis=0), floor_variance(rows.var(axis=0))
    rows = (rows - mean) / np.sqrt(variance)
    # The optimum lies in the space that the rows span; of many rows, some span nearly all of it.
    few = rows[:: -(-len(rows) // MOST_AXES)]
    if len(few) < rows.shape[1]:
        spreads, vectors = np.linalg.eigh(few @ few.T / len(few))
        kept = spreads > FLATTEST * max(spreads[-1], 1.0)
        directions = few.T @ (vectors[:, kept] / np.sqrt(spreads[kept] * len(few)))
    else:
        spreads, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        kept = spreads > FLATTEST * max(spreads[-1], 1.0)
        directions = vectors[:, kept]
    return _Axes(mean, variance, directions, spreads[kept], rows @ directions)


def _solve(
    axes: _Axes,
    targets: np.ndarray,
    weights: np.ndarray,
    l2: float,
    kernel: np.ndarray,
    bias: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (axes, classes) and bias (classes,) of the lowest loss, from a start."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    scale = 1 / np.sqrt(CURVATURE * axes.spreads + 2 * l2)
    rows, decay = axes.coordinates * scale, (l2 * scale**2)[:, None]
    shape, classes = kernel.shape, len(bias)

    def measure(point: np.ndarray) -> tuple[float, np.ndarray]:
        scaled, offset = point[:-classes].reshape(shape), point[-classes:]
        logits = rows @ scaled + offset
        log_shares = logits - logsumexp(logits, axis=1, keepdims=True)
        error = weights * (np.exp(log_shares) - targets)
        loss = -(weights * targets * log_shares).sum() + (decay * scaled**2).sum()
        slope = rows.T @ error + 2 * decay * scaled
        return float(loss), np.concatenate([slope.ravel(), error.sum(axis=0)])

    start = np.concatenate([(kernel / scale[:, None]).ravel(), bias])
    options = {"maxiter": MOST_STEPS, "gtol": tolerance, "ftol": 1e-3 * tolerance, "maxcor": 10}
    found = minimize(measure, start, jac=True, method="L-BFGS-B", options=options).x
    return found[:-classes].reshape(shape) * scale[:, None], found[-classes:]
