"""The convex head, multinomial logistic regression: one optimum, no seed, where many heads are fitted."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from metal_defects.log import track
from metal_defects.system import map_ordered

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Predict]
"""Takes features (1 + views, images, columns), labels (images,), groups (images,) and a seed; returns what turns
features (rows, columns) into logits (rows, classes), up to a constant per row: log-probabilities will do."""

Job = TypeVar("Job")
Result = TypeVar("Result")
MOST_STEPS = 200


def fit_many(fit: Callable[[Job], Result], jobs: Sequence[Job], what: str, workers: int | None = None) -> list[Result]:
    """Results of many small fits, a core for each.

    Args:
        fit: one; called from several threads at once.
        jobs: what it is given.
        what: shown with the progress.
        workers: threads; as many as there are cores where None.
    """
    from threadpoolctl import threadpool_limits

    # Several threads on one small matrix product wait for one another ten times as long as they work.
    with threadpool_limits(1):
        return list(track(map_ordered(fit, jobs, workers), what, total=len(jobs)))


def fit_convex_head(strength: float = 1.0) -> Fit:
    """Multinomial logistic regression on standardised features.

    A quadratic penalty does not see a rotation of the columns. Where there are fewer rows than columns, they are
    therefore replaced by their coordinates in the space that the rows span, which makes every step cheaper.

    Args:
        strength: C of scikit-learn: the inverse of the weight decay.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        rows = features.reshape(-1, features.shape[-1])
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        # As in the product's head: a channel that never varies in training must not be blown up when it does in use.
        deviation = np.sqrt(np.maximum(variance, max(1e-4 * np.median(variance), 1e-12)))
        rows, basis = (rows - mean) / deviation, None
        if len(rows) < rows.shape[1]:
            basis, coordinates = np.linalg.qr(rows.T)
            rows = coordinates.T
        predict = _fit_regression(rows, np.tile(labels, len(features)), strength)

        def answer(columns: np.ndarray) -> np.ndarray:
            standardised = (columns - mean) / deviation
            return predict(standardised if basis is None else standardised @ basis)

        return answer

    return fit


def _fit_regression(rows: np.ndarray, labels: np.ndarray, strength: float) -> Predict:
    """Logits of a regression on rows as they are; classes without a row get what no other class falls below."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        # So many steps are far more than the order of the answers needs.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, labels)

    def predict(columns: np.ndarray) -> np.ndarray:
        scores = model.decision_function(columns)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        logits = np.full((len(columns), int(model.classes_.max()) + 1), -1e3, np.float32)
        logits[:, model.classes_] = scores
        return logits

    return predict
