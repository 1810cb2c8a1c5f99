"""The solved head is the optimum that scikit-learn finds, whatever the shape of the features."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.models import linear_head
from metal_defects.models.linear_head import FINAL_TOLERANCE, PENALTIES, LinearHead, solve_path
from metal_defects.models.networks import floor_variance

CLASSES = 3


def draw(rows: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal spread that overlap, and labels of three classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    features = random.normal(0, 1, (rows, columns)) + random.normal(0, 0.5, (CLASSES, columns))[labels]
    return (features * np.geomspace(0.01, 100, columns) + 7).astype(np.float32), labels


def solve(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, l2: float) -> LinearHead:
    return next(solve_path(features, np.eye(CLASSES)[labels], weights, (l2,), FINAL_TOLERANCE))


def share(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=1)


def ask_sklearn(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, l2: float) -> np.ndarray:
    """Probabilities; its loss is a sum with half the squared kernel, ours a mean with `l2` times that square."""
    from sklearn.linear_model import LogisticRegression

    rows = features.astype(np.float64)
    standardised = (rows - rows.mean(0)) / np.sqrt(floor_variance(rows.var(0)))
    model = LogisticRegression(C=1 / (2 * l2 * weights.sum()), tol=1e-9, max_iter=20_000)
    return model.fit(standardised, labels, sample_weight=weights).predict_proba(standardised)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(12, 90),
    columns=st.integers(1, 60),
    l2=st.sampled_from(PENALTIES),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
)
def test_answers_are_those_of_scikit_learn(rows: int, columns: int, l2: float, seed: int, weighted: bool) -> None:
    """With more rows than columns, with fewer, and with weights."""
    features, labels = draw(rows, columns, seed)
    random = np.random.default_rng(seed)
    weights = random.uniform(0.2, 5, CLASSES)[labels] if weighted else np.ones(rows)
    found = share(solve(features, labels, weights, l2).logits(features))
    assert np.allclose(found, ask_sklearn(features, labels, weights, l2), atol=2e-3)


def test_an_image_of_twice_the_weight_counts_as_two() -> None:
    features, labels = draw(30, 8)
    weights = np.where(np.arange(30) < 10, 2.0, 1.0)
    head = solve(features, labels, weights, 0.01)
    twice = np.concatenate([np.arange(30), np.arange(10)])
    copied = share(head.logits(features))
    standard = (head.mean, head.variance)
    moments = features[twice].mean(0), features[twice].var(0)
    assert not np.allclose(standard[0], moments[0]), "only the loss is weighted, not the standardisation"
    assert np.allclose(copied, ask_sklearn(features, labels, weights, 0.01), atol=2e-3)


def test_a_class_without_an_image_gets_no_chance_and_changes_nothing() -> None:
    features, labels = draw(40, 6)
    kept = labels != 1
    features, labels = features[kept], labels[kept]
    found = share(solve(features, labels, np.ones(len(labels)), 0.01).logits(features))
    assert found[:, 1].max() < 1e-12
    # Of two classes scikit-learn keeps the difference alone, whose square is twice the sum of their squares.
    expected = ask_sklearn(features, labels, np.ones(len(labels)), 0.01 / 2)
    assert np.allclose(found[:, [0, 2]], expected, atol=2e-3)


def test_a_constant_column_is_ignored() -> None:
    features, labels = draw(40, 10)
    features = features[:, 4:]
    with_constant = np.concatenate([features, np.full((40, 1), 3, np.float32)], axis=1)
    one, other = (solve(each, labels, np.ones(40), 0.01) for each in (features, with_constant))
    assert np.abs(other.kernel[-1]).max() < 1e-8
    assert np.allclose(one.logits(features), other.logits(with_constant), atol=1e-3)


def test_of_many_rows_some_span_the_axes_and_all_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 240 rows with 90 columns of 20 factors, 60 show nearly the whole space."""
    random = np.random.default_rng(0)
    labels = np.arange(240) % CLASSES
    factors = random.normal(0, 1, (240, 20)) + random.normal(0, 0.5, (CLASSES, 20))[labels]
    features = (factors @ random.normal(0, 1, (20, 90))).astype(np.float32)
    expected = ask_sklearn(features, labels, np.ones(240), 0.003)
    monkeypatch.setattr(linear_head, "MOST_AXES", 60)
    head = solve(features, labels, np.ones(240), 0.003)
    assert np.allclose(share(head.logits(features)), expected, atol=2e-3)


def test_the_path_goes_from_the_strongest_penalty_and_each_is_the_optimum_by_itself() -> None:
    features, labels = draw(60, 20)
    heads = list(solve_path(features, np.eye(CLASSES)[labels], np.ones(60)))
    assert tuple(head.l2 for head in heads) == PENALTIES
    norms = [float(np.square(head.kernel).sum()) for head in heads]
    assert all(before < after for before, after in pairwise(norms)), "a weaker penalty lets the kernel grow"
    for head in heads[1::2]:
        alone = solve(features, labels, np.ones(60), head.l2)
        assert np.allclose(share(head.logits(features)), share(alone.logits(features)), atol=5e-3)


def test_the_path_solves_no_more_than_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    solved, inner = [], linear_head._solve
    monkeypatch.setattr(linear_head, "_solve", lambda *rest: solved.append(rest[3]) or inner(*rest))
    features, labels = draw(30, 4)
    path = solve_path(features, np.eye(CLASSES)[labels], np.ones(30))
    next(path), next(path)
    assert solved == list(PENALTIES[:2])


def test_the_layers_answer_as_the_arrays_do() -> None:
    features, labels = draw(50, 12)
    head = solve(features, labels, np.ones(50), 0.003)
    model = head.to_keras()
    assert np.allclose(model(features), share(head.logits(features)), atol=1e-4)
    assert float(model.get_layer("probabilities").kernel_regularizer.l2) == pytest.approx(0.003)
