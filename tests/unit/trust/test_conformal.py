"""Conformal sets: the promised coverage, never empty when served, and MAPIE's answer."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.log import logger
from metal_defects.trust.calibration import Scaling
from metal_defects.trust.conformal import ClassCoverage, fit_conformal, judge_coverage, prediction_sets

NAMES = ["Left", "Right", "Even", "Odd"]


def draw(count: int, seed: int, sharpness: float = 1.0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = Scaling(temperature=1 / sharpness).apply(random.normal(0, 2, (count, classes)))
    labels = (random.random(count)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    return probabilities, np.minimum(labels, classes - 1)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.99])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_covers_as_promised(coverage: float, sharpness: float) -> None:
    probabilities, labels = draw(4000, 1, sharpness)
    threshold = fit_conformal(probabilities, labels, coverage)
    fresh, truth = draw(20_000, 2, sharpness)
    rows = np.arange(len(truth))
    exact = prediction_sets(fresh, threshold, allow_empty=True)[rows, truth].mean()
    assert abs(exact - coverage) < 0.015
    assert prediction_sets(fresh, threshold)[rows, truth].mean() >= exact


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.95])
def test_agrees_with_mapie(coverage: float) -> None:
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 900)
    features = random.normal(0, 1.2, (900, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[labels]
    model = LogisticRegression().fit(features[:300], labels[:300])
    oracle = mapie.SplitConformalClassifier(model, confidence_level=coverage, prefit=True, conformity_score="lac")
    oracle.conformalize(features[300:600], labels[300:600])
    expected = oracle.predict_set(features[600:])[1][:, :, 0]
    threshold = fit_conformal(model.predict_proba(features[300:600]), labels[300:600], coverage)
    found = prediction_sets(model.predict_proba(features[600:]), threshold, allow_empty=True)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 99), coverage=st.floats(0.01, 0.999))
def test_threshold_is_the_finite_sample_quantile(count: int, seed: int, coverage: float) -> None:
    probabilities, labels = draw(count, seed)
    threshold = fit_conformal(probabilities, labels, coverage)
    covered = (probabilities[np.arange(count), labels] >= threshold).sum()
    assert covered >= min(np.ceil((count + 1) * coverage - 1e-6), count)
    assert covered == count or covered <= np.ceil((count + 1) * coverage + 1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), threshold=st.floats(0, 1), sharpness=st.floats(0.1, 20))
def test_served_sets(seed: int, threshold: float, sharpness: float) -> None:
    probabilities, _ = draw(30, seed, sharpness)
    served, exact = prediction_sets(probabilities, threshold), prediction_sets(probabilities, threshold, True)
    assert served[np.arange(30), probabilities.argmax(axis=1)].all()
    assert (served | ~exact).all()
    decided = exact.any(axis=1)
    np.testing.assert_array_equal(served[decided], exact[decided])
    # Whatever is left out is less probable than whatever is in.
    lowest_in = np.where(served, probabilities, 2).min(axis=1)
    highest_out = np.where(served, -1, probabilities).max(axis=1)
    assert (highest_out <= lowest_in).all()


def test_undecided_answers_name_as_many_classes_as_it_takes() -> None:
    probabilities = np.array([[0.61, 0.37, 0.02], [0.4, 0.3, 0.3], [0.97, 0.02, 0.01]])
    expected = [[True, True, False], [True, True, True], [True, False, False]]
    assert prediction_sets(probabilities, 0.95).tolist() == expected


def test_model_better_than_the_coverage() -> None:
    probabilities, labels = draw(3000, 3, sharpness=15.0)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    report = judge_coverage(probabilities, labels, np.arange(3000) % 5, np.arange(3000), 0.95, NAMES)
    exact, served = report.exact, report.served
    assert 0.94 < exact.covered.value < 0.96 < served.covered.value
    assert exact.sizes[0] > 0 and served.sizes[0] == 0
    assert exact.mean_size < 1 <= served.mean_size


def test_report_is_cross_fitted_and_complete() -> None:
    probabilities, labels = draw(1000, 4)
    labels[labels == 3] = 2
    folds = np.arange(1000) % 4
    report = judge_coverage(probabilities, labels, folds, np.arange(len(labels)), 0.9, NAMES)
    assert report.threshold == fit_conformal(probabilities, labels, 0.9)
    expected = np.concatenate([
        (probabilities >= fit_conformal(probabilities[folds != fold], labels[folds != fold], 0.9))[
            folds == fold, labels[folds == fold]
        ]
        for fold in range(4)
    ])  # fmt: skip
    assert report.exact.covered.value == pytest.approx(expected.mean())
    assert report.exact.covered.low < expected.mean() < report.exact.covered.high
    rows = report.served.per_class
    assert [row.name for row in rows] == NAMES
    assert rows[3] == ClassCoverage(name="Odd", images=0, covered=None)
    assert sum(report.served.sizes) == pytest.approx(1)


def test_too_few_images_are_told() -> None:
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        probabilities, labels = draw(30, 5)
        threshold = fit_conformal(probabilities, labels, 0.99)
        fit_conformal(*draw(99, 5), 0.99)
    finally:
        logger.removeHandler(handler)
    assert threshold == probabilities[np.arange(30), labels].min()
    assert len(messages) == 1 and "30 images" in messages[0] and "0.968" in messages[0]


@pytest.mark.parametrize("coverage", [0, 1, 99])
def test_refuses(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        fit_conformal(*draw(10, 0), coverage)
