"""The convex head, multinomial logistic regression: one optimum, no seed, where many heads are fitted."""

from collections.abc import Callable

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Predict]
"""Takes features (1 + views, images, columns), labels (images,), groups (images,) and a seed; returns what turns
features (rows, columns) into logits (rows, classes), up to a constant per row: log-probabilities will do."""

TOLERANCE, MOST_STEPS = 1e-3, 100
JITTER = 1e-6


def fit_convex_head(strength: float = 1.0) -> Fit:
    """Multinomial logistic regression on standardised features.

    A quadratic penalty does not see a rotation of the columns. Where there are fewer rows than columns, they are
    therefore replaced by their coordinates in the space that the rows span, which costs one product of the rows with
    themselves and makes every step of the search as much cheaper.

    Args:
        strength: C of scikit-learn: the inverse of the weight decay.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        from scipy.linalg import cholesky, solve_triangular

        rows = features.reshape(-1, features.shape[-1])
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        # As in the product's head: a channel that never varies in training must not be blown up when it does in use.
        deviation = np.sqrt(np.maximum(variance, max(1e-4 * np.median(variance), 1e-12)))
        rows = (rows - mean) / deviation
        targets = np.tile(labels, len(features))
        if len(rows) >= rows.shape[1]:
            score = _fit_regression(rows, targets, strength)
            return lambda columns: score((columns - mean) / deviation)
        products = (rows @ rows.T).astype(np.float64)
        products[np.diag_indices_from(products)] += JITTER * np.trace(products) / len(products)
        # With K = L L', the rows of L have the same products with one another as the features themselves.
        lower = cholesky(products, lower=True)
        score = _fit_regression(lower.astype(np.float32), targets, strength)

        def predict(columns: np.ndarray) -> np.ndarray:
            products = ((columns - mean) / deviation) @ rows.T
            return score(solve_triangular(lower, products.T, lower=True).T)

        return predict

    return fit


def _fit_regression(rows: np.ndarray, labels: np.ndarray, strength: float) -> Predict:
    """Logits of a regression on rows as they are; classes without a row get what no other class falls below."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=MOST_STEPS, tol=TOLERANCE)
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
