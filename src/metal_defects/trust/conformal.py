"""Conformal prediction sets: possible classes that hold the true one as often as promised.

Least ambiguous sets: M. Sadinle, J. Lei & L. Wasserman, JASA 114 (2019) 223-234, with scores from cross-validation
(V. Vovk, "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74 (2015) 9-28): a class is
possible when its probability is not lower than what only 1 in 100 true classes stays below, at 99 % coverage.

A model that is right more often than the coverage cannot keep to the coverage with sets that are never empty: its
single best class alone covers more. The exact sets are then empty for its least certain answers. What is served names,
instead of none, as many of the most probable classes as it takes to reach the threshold together; such sets hold the
exact ones, so they cover at least as much, and the images with two classes are the ones to look at again.
Both are reported.
"""

from collections.abc import Sequence

import numpy as np

from metal_defects.inference.verdict import possible_classes
from metal_defects.log import logger
from metal_defects.metrics import Score, design_effect, share
from metal_defects.records import Record


class ClassCoverage(Record):
    """How often the sets of one class's images hold it; None where there is no image."""

    name: str
    images: int
    covered: float | None


class SetScores(Record):
    """Sets of possible classes, measured.

    Attributes:
        covered: share of the images whose set holds the true class.
        sizes: share of the images by set size, from 0.
    """

    covered: Score
    mean_size: float
    sizes: tuple[float, ...]
    per_class: tuple[ClassCoverage, ...]


class Coverage(Record):
    """What was promised and what was measured.

    Attributes:
        coverage: that is promised.
        threshold: of all images.
        exact: sets that may be empty.
        served: sets that are never empty.
    """

    coverage: float
    images: int
    threshold: float
    exact: SetScores
    served: SetScores


def fit_conformal(probabilities: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    """The probability from which a class counts as possible.

    It is the k-th lowest of the n true classes' probabilities, k = n + 1 - ceil((n + 1) * coverage), which promises
    the coverage for images like these. Fewer images than 1 / (1 - coverage) - 1 cannot promise it; the lowest
    probability is the best that they have.

    Args:
        probabilities: calibrated, out of fold, (n, C).
        labels: integers in [0, C), (n,).
        coverage: in (0, 1).

    Raises:
        ValueError: `coverage` is out of range or there is no image.
    """
    count = len(labels)
    if not 0 < coverage < 1 or not count:
        raise ValueError(f"coverage must be between 0 and 1, such as 0.99, of n >= 1 images. Got {coverage}, {count}.")
    # Rounding must not turn 99 of 100 into 99.00000001.
    place = count + 1 - int(np.ceil(round((count + 1) * coverage, 9)))
    if place < 1:
        promise = count / (count + 1)
        logger.warning("   %d images cannot promise a coverage of %g; %.3f is promised", count, coverage, promise)
    return float(np.sort(probabilities[np.arange(count), labels])[max(place, 1) - 1])


def prediction_sets(probabilities: np.ndarray, threshold: float, allow_empty: bool = False) -> np.ndarray:
    """Which classes are possible, bool (n, C).

    Args:
        probabilities: calibrated, (n, C).
        threshold: of `fit_conformal`.
        allow_empty: the exact sets, instead of those that are served.
    """
    return probabilities >= threshold if allow_empty else possible_classes(probabilities, threshold)


def judge_coverage(
    probabilities: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    coverage: float,
    class_names: Sequence[str],
) -> Coverage:
    """Measured coverage of thresholds that were fitted without the image's own fold.

    Args:
        probabilities: calibrated, out of fold, (n, C).
        labels: integers in [0, C), (n,).
        folds: in which fold each image was left out, (n,).
        groups: images of the same value show one piece of surface, (n,).
        coverage: that is promised.
        class_names: C names.
    """
    served, exact = (np.zeros(probabilities.shape, bool) for _ in range(2))
    of_all = fit_conformal(probabilities, labels, coverage)
    for fold in np.unique(folds):
        inside = folds == fold
        threshold = of_all if inside.all() else fit_conformal(probabilities[~inside], labels[~inside], coverage)
        served[inside] = prediction_sets(probabilities[inside], threshold)
        exact[inside] = prediction_sets(probabilities[inside], threshold, allow_empty=True)
    return Coverage(
        coverage=coverage,
        images=len(labels),
        threshold=of_all,
        exact=_score(exact, labels, groups, class_names),
        served=_score(served, labels, groups, class_names),
    )


def _score(sets: np.ndarray, labels: np.ndarray, groups: np.ndarray, class_names: Sequence[str]) -> SetScores:
    covered, sizes = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    per_class = [(name, covered[labels == index]) for index, name in enumerate(class_names)]
    return SetScores(
        covered=share(int(covered.sum()), len(labels), design_effect(covered, groups)),
        mean_size=float(sizes.mean()),
        sizes=tuple((np.bincount(sizes) / len(sizes)).tolist()),
        per_class=tuple(
            ClassCoverage(name=name, images=len(hits), covered=float(hits.mean()) if len(hits) else None)
            for name, hits in per_class
        ),
    )
