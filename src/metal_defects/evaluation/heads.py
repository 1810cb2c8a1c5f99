"""Many small fits: the interface of a head that is cross-validated, and the convex one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from metal_defects.log import track
from metal_defects.models.training import Examples, solve_heads
from metal_defects.system import map_ordered

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Predict]
"""Takes features (1 + views, images, columns), labels (images,), groups (images,) and a seed; returns what turns
features (rows, columns) into logits (rows, classes), up to a constant per row: log-probabilities will do."""

Job = TypeVar("Job")
Result = TypeVar("Result")
# A penalty that does hardly any harm anywhere, where the best one is not worth looking for.
USUAL_PENALTY = 0.003


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


def fit_convex_head(l2: float = USUAL_PENALTY) -> Fit:
    """Multinomial logistic regression at its optimum, all images alike.

    Args:
        l2: penalty on the kernel.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        weights = np.ones(int(labels.max()) + 1)
        return next(solve_heads(Examples(features, labels), weights, penalties=(l2,))).logits

    return fit
