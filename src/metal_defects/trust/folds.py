"""Stratified grouped k-fold: parts of a data set that keep the shares of the classes and the copies of an image."""

import warnings

import numpy as np

Fold = tuple[np.ndarray, np.ndarray]


def make_folds(labels: np.ndarray, groups: np.ndarray, count: int, seed: int) -> list[Fold]:
    """Positions to fit on and to judge, one pair per fold; every image is judged once.

    Args:
        labels: of any type, (images,).
        groups: images of the same value are copies of one another and stay on one side, (images,).
        count: of the folds, from 2 to the number of groups. A class of fewer groups is missing from some folds.
        seed: of the shuffle.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes, numbers = (np.unique(values, return_inverse=True)[1] for values in (labels, groups))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class is smaller than the number of folds is the caller's to judge
        return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(codes, codes, numbers))


def hold_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> Fold:
    """Positions of the images that stay and of those held out: a stratified `share`, copies together.

    Where no class has as many different images as there are parts, there are fewer parts.
    """
    parts = min(round(1 / share), int(count_groups(labels, groups).max()))
    return make_folds(labels, groups, max(2, parts), seed)[0]


def count_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Different images of each class that is there, in the order of the classes, (classes,)."""
    pairs = np.unique(np.stack([np.unique(values, return_inverse=True)[1] for values in (labels, groups)]), axis=1)
    return np.unique(pairs[0], return_counts=True)[1]
