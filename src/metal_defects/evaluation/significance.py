"""Paired significance tests: whether "the best model" is more than chance."""

from collections.abc import Mapping

import numpy as np

from metal_defects.metrics import image_losses
from metal_defects.records import Record

SIGNIFICANT = 0.05


class ComparedModel(Record):
    """A model against the best one on the same images.

    Attributes:
        only_best_wrong, only_this_wrong: images.
        p_value: exact McNemar, with Holm's correction; this and the like are None for the best itself.
    """

    model: str
    errors: int
    log_loss: float
    only_best_wrong: int | None
    only_this_wrong: int | None
    p_value: float | None
    more_than_chance: bool | None


def compare_answers(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """p value of the exact McNemar test, two-sided: the chance of so uneven a split of the images judged differently.

    Q. McNemar, Psychometrika 12 (1947) 153-157; recommended for one training of each model by T. Dietterich, Neural
    Computation 10 (1998) 1895-1923.

    Args:
        first_right, second_right: whether each answered the same images rightly, bool (images,).
    """
    from scipy.stats import binomtest

    first_only, second_only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    differing = first_only + second_only
    return float(binomtest(first_only, differing).pvalue) if differing else 1.0


def compare_models(labels: np.ndarray, answers: Mapping[str, np.ndarray]) -> tuple[ComparedModel, ...]:
    """Every model against the best one on the same images, the best first.

    Several comparisons are corrected for by Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.

    Args:
        labels: int (images,).
        answers: per model, out-of-fold probabilities (images, classes).
    """
    right = {name: rows.argmax(axis=1) == labels for name, rows in answers.items()}
    losses = {name: float(image_losses(labels, rows).mean()) for name, rows in answers.items()}
    ranked = sorted(answers, key=lambda name: (int((~right[name]).sum()), losses[name], name))
    best, others = ranked[0], ranked[1:]
    raw = {name: compare_answers(right[best], right[name]) for name in others}
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(others, key=lambda name: raw[name])):
        largest = max(largest, min(1.0, (len(others) - place) * raw[name]))
        corrected[name] = largest
    return tuple(
        ComparedModel(
            model=name,
            errors=int((~right[name]).sum()),
            log_loss=losses[name],
            only_best_wrong=None if name == best else int((~right[best] & right[name]).sum()),
            only_this_wrong=None if name == best else int((right[best] & ~right[name]).sum()),
            p_value=corrected.get(name),
            more_than_chance=None if name == best else corrected[name] < SIGNIFICANT,
        )
        for name in ranked
    )


def standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Of the mean of values that come in groups: those of one group count as one draw.

    The linearisation estimator of a ratio, as for clusters in surveys (W. Cochran, Sampling Techniques, 1977, ch. 9).

    Args:
        values: (images,).
        groups: images of the same value show one piece of surface, (images,).
    """
    codes = np.unique(groups, return_inverse=True)[1]
    totals = np.bincount(codes, weights=values - values.mean())
    count = len(totals)
    if count < 2:
        return float("inf")
    return float(np.sqrt(np.square(totals).sum() * count / (count - 1)) / len(values))
