"""Accuracy against labelled images per class: what more labels would buy."""

import numpy as np

from metal_defects.evaluation.heads import fit_convex_head, fit_many
from metal_defects.metrics import Score, accuracy_interval, design_effect
from metal_defects.records import Record
from metal_defects.trust.folds import hold_out

SIZES = (1, 2, 5, 10, 20, 50)
HELD_OUT = 0.2
# Few images make a lottery of a draw, many make it dear: (up to so many images per class, draws).
DRAWS = ((10, 10), (50, 5), (None, 3))


class CurvePoint(Record):
    """Accuracy with so many labels.

    Attributes:
        per_class: images; None for all that there are.
        images: mean number of training images.
        accuracy: mean over the draws.
        lowest, highest: accuracy of a draw.
    """

    per_class: int | None
    images: int
    draws: int
    accuracy: Score
    lowest: float
    highest: float


def measure_learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    sizes: tuple[int, ...] = SIZES,
    seed: int = 0,
) -> tuple[CurvePoint, ...]:
    """Train on ever more images per class and judge images that were held out.

    A fifth of the images is held out anew in every draw, copies together; the training images of a draw are nested, so
    that each size adds to the one before. Sizes that some class cannot fill are left out; the last point is all
    that is left.

    Args:
        features: float32 (1 + views, images, columns), view 0 clean.
        labels: int (images,).
        groups: images of the same value are copies of one another, (images,).
        sizes: images per class, rising.
        seed: of the draws.

    Returns:
        A point for each size. The 95 % interval of its mean is Student's t over the draws' spread, widened by test
        share / training share as by Nadeau & Bengio, Machine Learning 52 (2003) 239-281, because draws overlap; it is
        never narrower than Wilson's for the images of one draw, those of one piece of surface counting less.
    """
    draws = max(count for _, count in DRAWS)
    splits = [hold_out(labels, groups, HELD_OUT, seed + draw) for draw in range(draws)]
    fewest = min(np.bincount(labels[rest])[np.unique(labels)].min() for rest, _ in splits)
    plan: list[int | None] = [size for size in sizes if size < fewest] + [None]
    jobs = [(size, draw) for size in plan for draw in range(_count_draws(size))]
    fit = fit_convex_head()

    def judge(job: tuple[int | None, int]) -> tuple[float, int, float]:
        size, draw = job
        rest, test = splits[draw]
        chosen = rest if size is None else _draw(rest, labels, size, seed + draw)
        predict = fit(features[:, chosen], labels[chosen], groups[chosen], seed)
        right = predict(features[0, test]).argmax(axis=1) == labels[test]
        return float(right.mean()), len(chosen), len(test) / design_effect(right, groups[test])

    scores: dict[int | None, list[float]] = {size: [] for size in plan}
    counts: dict[int | None, list[int]] = {size: [] for size in plan}
    tested: dict[int | None, list[float]] = {size: [] for size in plan}
    for (size, _), (score, count, worth) in zip(jobs, fit_many(judge, jobs, "Learning curve"), strict=True):
        scores[size].append(score)
        counts[size].append(count)
        tested[size].append(worth)
    return tuple(
        CurvePoint(
            per_class=size,
            images=round(float(np.mean(counts[size]))),
            draws=len(scores[size]),
            accuracy=_interval(scores[size], max(1, round(float(np.mean(tested[size]))))),
            lowest=min(scores[size]),
            highest=max(scores[size]),
        )
        for size in plan
    )


def _count_draws(size: int | None) -> int:
    return next(count for most, count in DRAWS if most is None or (size is not None and size <= most))


def _draw(rest: np.ndarray, labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """`size` images of each class out of `rest`; a larger size with the same seed contains a smaller one."""
    shuffled = np.random.default_rng(seed).permutation(rest)
    return np.concatenate([shuffled[labels[shuffled] == label][:size] for label in np.unique(labels)])


def _interval(scores: list[float], tested: int) -> Score:
    from scipy.stats import t

    mean, count = float(np.mean(scores)), len(scores)
    half = t.ppf(0.975, count - 1) * np.std(scores, ddof=1) * np.sqrt(1 / count + HELD_OUT / (1 - HELD_OUT))
    low, high = accuracy_interval(round(mean * tested), tested)
    return Score(value=mean, low=float(max(0.0, min(low, mean - half))), high=float(min(1.0, max(high, mean + half))))
