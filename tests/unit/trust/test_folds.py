"""Folds: everything is judged once, copies stay together, classes keep their shares."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.trust.folds import count_groups, hold_out, make_folds


@given(count=st.integers(2, 6), copies=st.integers(1, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_every_image_is_judged_once_without_its_copies(count: int, copies: int, seed: int) -> None:
    labels = np.repeat(["a", "b", "c"], 12)
    groups = np.array([f"group {index // copies}" for index in range(36)])
    folds = make_folds(labels, groups, count, seed)
    assert len(folds) == count
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(36))
    for rest, test in folds:
        assert not set(groups[rest]) & set(groups[test])
        assert sorted([*rest, *test]) == list(range(36))


def test_hold_out_keeps_copies_together_and_classes_even() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100) // 2
    rest, test = hold_out(labels, groups, 0.2, seed=1)
    assert not set(groups[rest]) & set(groups[test])
    assert np.bincount(labels[test]).tolist() == [10, 10]


def test_a_fifth_of_three_images_is_one() -> None:
    labels = np.arange(9) % 3
    _, test = hold_out(labels, np.arange(9), 0.2, seed=1)
    assert np.bincount(labels[test]).tolist() == [1, 1, 1]


def test_copies_count_once() -> None:
    assert count_groups(np.array(["b", "b", "b", "a"]), np.array([1, 1, 2, 3])).tolist() == [1, 2]
