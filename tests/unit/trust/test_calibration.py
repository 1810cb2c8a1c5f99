"""Temperature and calibration figures: against closed forms, a textbook ECE and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.metrics import image_losses
from metal_defects.trust.calibration import (
    COLDEST,
    HOTTEST,
    Scaling,
    brier,
    cross_fit,
    expected_calibration_error,
    fit_scaling,
    judge_calibration,
)
from metal_defects.trust.priors import resolve_priors


def draw(count: int, classes: int, heat: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `heat` times too large, and labels drawn from the right probabilities."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (count, classes))
    probabilities = Scaling().apply(true)
    labels = (random.random(count)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    return true * heat, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_finds_the_temperature(heat: float) -> None:
    logits, labels = draw(8000, 4, heat, 0)
    found = fit_scaling(logits, labels)
    assert found.temperature == pytest.approx(heat, rel=0.06)
    assert max(map(abs, found.bias)) < 0.15, "no class is preferred"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e6])
def test_separable_data_does_not_run_to_zero(scale: float) -> None:
    labels = np.arange(500) % 3
    logits = np.eye(3)[labels] * scale
    scaling = fit_scaling(logits, labels)
    assert COLDEST * (1 - 1e-9) <= scaling.temperature <= HOTTEST * (1 + 1e-9)
    if scale == 30.0:
        # One in n + 2 goes by chance to any of the three, so the right one gets 1 - (2 / 3) / 502.
        right = scaling.apply(logits)[np.arange(500), labels]
        assert right.mean() == pytest.approx(1 - 2 / 3 / 502, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), classes=st.integers(2, 6), heat=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_scaling_is_never_worse_than_none_on_what_it_saw(count: int, classes: int, heat: float, seed: int) -> None:
    logits, labels = draw(count, classes, heat, seed)
    scaling = fit_scaling(logits, labels)
    assert COLDEST * (1 - 1e-9) <= scaling.temperature <= HOTTEST * (1 + 1e-9)
    assert sum(scaling.bias) == pytest.approx(0, abs=1e-9)
    probabilities = scaling.apply(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    targets = np.eye(classes)[labels] * (1 - 1 / (count + 2)) + 1 / (count + 2) / classes
    before, after = (-(targets * np.log(shares + 1e-300)).sum() for shares in (Scaling().apply(logits), probabilities))
    assert after <= before + 1e-6


def test_finds_the_classes_that_training_preferred() -> None:
    logits, labels = draw(8000, 4, 1.0, 3)
    offset = np.array([1.0, -1.0, 0.5, -0.5])
    assert np.array(fit_scaling(logits - offset, labels).bias) == pytest.approx(offset, abs=0.12)


def test_few_images_leave_the_biases_small() -> None:
    logits = np.zeros((5, 3))
    assert max(map(abs, fit_scaling(logits, np.zeros(5, int)).bias)) < 0.5


def test_shift_adds_to_the_bias() -> None:
    logits, shift = np.array([[0.3, -0.2, 1.0]]), np.log([0.5, 1.0, 2.0])
    plain = Scaling(temperature=2.0)
    moved = plain.apply(logits) * np.exp(shift)
    np.testing.assert_allclose(plain.shift(shift).apply(logits), moved / moved.sum())
    np.testing.assert_allclose(plain.shift(shift).shift(-shift).apply(logits), plain.apply(logits))


def test_shifted_logits_are_the_same() -> None:
    logits, labels = draw(300, 4, 2.0, 1)
    shifted = logits + np.random.default_rng(0).normal(0, 50, (300, 1))
    assert fit_scaling(shifted, labels).temperature == pytest.approx(fit_scaling(logits, labels).temperature, rel=1e-3)


@settings(max_examples=10, deadline=None)
@given(repeats=st.lists(st.integers(1, 4), min_size=40, max_size=40))
def test_a_weight_counts_like_so_many_images(repeats: list[int]) -> None:
    logits, labels = draw(40, 3, 1.0, 8)
    probabilities, weights = Scaling().apply(logits), np.array(repeats)
    many = np.repeat(np.arange(40), repeats)
    assert brier(probabilities, labels, weights) == pytest.approx(brier(probabilities[many], labels[many]))
    weighted = expected_calibration_error(probabilities, labels, bins=1, weights=weights).value
    assert weighted == pytest.approx(expected_calibration_error(probabilities[many], labels[many], bins=1).value)


def test_ece_against_the_textbook() -> None:
    logits, labels = draw(1000, 5, 2.0, 2)
    probabilities = Scaling().apply(logits)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.quantile(confidence, np.arange(1, 10) / 10)
    which = np.searchsorted(edges, confidence)
    gaps = [
        (which == one).mean() * abs(confidence[which == one].mean() - correct[which == one].mean()) for one in range(10)
    ]
    found = expected_calibration_error(probabilities, labels, bins=10)
    assert found.value == pytest.approx(sum(gaps), abs=1e-9)
    assert found.low < found.value < found.high
    assert [one.count for one in found.bins] == [100] * 10
    assert found == expected_calibration_error(probabilities, labels, bins=10)


def test_ece_of_certainty() -> None:
    labels = np.arange(20) % 2
    perfect = expected_calibration_error(np.eye(2)[labels], labels)
    assert (perfect.value, perfect.low, perfect.high) == (0, 0, 0)
    wrong = expected_calibration_error(np.eye(2)[1 - labels], labels)
    assert (wrong.value, wrong.low, wrong.high) == (1, 1, 1)


@pytest.mark.parametrize("count", [1, 2, 14, 16])
def test_ece_of_few_images(count: int) -> None:
    found = expected_calibration_error(np.full((count, 2), 0.5), np.zeros(count, int))
    assert len(found.bins) == min(15, count)
    assert sum(one.count for one in found.bins) == count


def test_losses_against_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    logits, labels = draw(200, 2, 1.5, 3)
    probabilities = Scaling().apply(logits)
    assert image_losses(labels, probabilities).mean() == pytest.approx(log_loss(labels, probabilities))
    assert brier(probabilities, labels) == pytest.approx(2 * brier_score_loss(labels, probabilities[:, 1]))
    assert np.isfinite(image_losses(np.array([1]), np.eye(2, dtype=np.float32)[[0]]))


def test_cross_fit_never_sees_its_own_fold() -> None:
    logits, labels = draw(400, 3, 2.0, 4)
    folds = np.arange(400) % 4
    before = cross_fit(logits, labels, folds)
    changed = labels.copy()
    changed[folds == 1] = (changed[folds == 1] + 1) % 3
    after = cross_fit(logits, changed, folds)
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])
    assert not np.array_equal(before[folds == 0], after[folds == 0])


def test_report_shows_the_gain() -> None:
    logits, labels = draw(2000, 4, 4.0, 5)
    priors = resolve_priors("training", "abcd", labels)
    report = judge_calibration(logits, labels, np.arange(2000) % 5, priors)
    before, after = report.before, report.after
    assert after.ece.value < before.ece.value / 3
    assert after.negative_log_likelihood < before.negative_log_likelihood
    assert after.brier < before.brier
    assert report.scaling == fit_scaling(logits, labels)
    assert report.errors == pytest.approx((logits.argmax(axis=1) != labels).sum(), rel=0.05)
    one_fold = judge_calibration(logits, labels, np.zeros(2000), priors)
    assert one_fold.after.ece.value < before.ece.value / 3


def test_calibration_holds_for_another_mix() -> None:
    """Judged on images of the training mix, weighted; checked on images of the mix that is served."""
    logits, labels = draw(6000, 3, 2.0, 9)
    asked = resolve_priors({"a": 0.9, "b": 0.08, "c": 0.02}, "abc", labels)
    told = judge_calibration(logits, labels, np.arange(6000) % 5, asked).after
    weights = asked.weigh(labels)
    chosen = np.random.default_rng(1).choice(6000, 6000, p=weights / weights.sum())
    served = asked.shift(fit_scaling(logits, labels).apply(logits))[chosen]
    unmoved = fit_scaling(logits, labels).apply(logits)[chosen]
    measured = expected_calibration_error(served, labels[chosen]).value
    assert told.ece.value < 0.02 and measured < 0.03
    assert expected_calibration_error(unmoved, labels[chosen]).value > 2 * measured, "the shift must be needed"
    assert told.brier == pytest.approx(brier(served, labels[chosen]), rel=0.15)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((3, 2)), np.zeros(2, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.full((2, 2), np.nan), np.zeros(2, int)),
        (np.zeros((2, 2)), np.array([0, 2])),
        (np.zeros((2, 2)), np.zeros(2)),
    ],
)
def test_refuses(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Got"):
        fit_scaling(logits, labels)


def test_calibration_error_draws_whole_pieces_again() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat((rng.random(40) < 0.7).astype(int), 25)
    probabilities = np.tile([0.3, 0.7], (1000, 1))
    alone = expected_calibration_error(probabilities, labels)
    pieces = expected_calibration_error(probabilities, labels, groups=np.repeat(np.arange(40), 25))
    assert pieces.value == alone.value
    assert pieces.high > alone.high + 0.02
    assert pieces == expected_calibration_error(probabilities, labels, groups=np.repeat(np.arange(40), 25) + 7)
