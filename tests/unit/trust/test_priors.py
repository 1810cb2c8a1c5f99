"""Priors: the shift against Bayes' rule, shares found again in simulated answers, settings that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.errors import ConfigError
from metal_defects.trust.priors import estimate_priors, estimate_shares, resolve_priors

NAMES = ("good", "short", "spur")
BASE = np.full(3, 1 / 3)
mixes = st.lists(st.floats(0.02, 1), min_size=3, max_size=3).map(lambda row: np.array(row) / sum(row))


def answer(shares: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a mix, and the exact posterior of a model that was trained on equal shares, (count, 3)."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=shares)
    seen = random.normal(1.8 * np.eye(3)[labels], 1.0)
    likelihoods = np.exp(-0.5 * ((seen[:, None] - 1.8 * np.eye(3)) ** 2).sum(axis=2))
    return labels, likelihoods / likelihoods.sum(axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(mixes, st.integers(0, 99))
def test_shares_are_found_without_labels(shares: np.ndarray, seed: int) -> None:
    _, probabilities = answer(shares, 4000, seed)
    found = estimate_shares(probabilities, BASE)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - shares).max() < 0.06


def test_answers_for_another_mix_are_read_by_their_base() -> None:
    labels, probabilities = answer(np.array([0.9, 0.07, 0.03]), 4000, 1)
    priors = resolve_priors({"good": 0.6, "short": 0.3, "spur": 0.1}, NAMES, np.arange(300) % 3)
    found = estimate_shares(priors.shift(probabilities), np.array(priors.served))
    assert found == pytest.approx(estimate_shares(probabilities, BASE), abs=1e-3)
    assert found == pytest.approx(np.bincount(labels) / 4000, abs=0.02)


def test_intervals_hold_the_truth_as_a_rule() -> None:
    shares, inside = np.array([0.8, 0.15, 0.05]), []
    for seed in range(8):
        rows = estimate_priors(answer(shares, 300, seed)[1], BASE, NAMES, seed)
        inside += [row.low <= share <= row.high for row, share in zip(rows, shares, strict=True)]
        assert [row.name for row in rows] == list(NAMES)
    assert np.mean(inside) > 0.85


def test_knowing_the_mix_makes_fewer_errors() -> None:
    shares = np.array([0.94, 0.03, 0.03])
    labels, probabilities = answer(shares, 4000, 2)
    priors = resolve_priors(dict(zip(NAMES, shares, strict=True)), NAMES, np.arange(300) % 3)
    shifted = priors.shift(probabilities)
    assert (shifted.argmax(axis=1) != labels).mean() < (probabilities.argmax(axis=1) != labels).mean() / 2
    confidence = shifted.max(axis=1)
    assert confidence.mean() == pytest.approx((shifted.argmax(axis=1) == labels).mean(), abs=0.01)


@given(mixes, st.integers(0, 99))
def test_weights_give_the_served_mix(shares: np.ndarray, seed: int) -> None:
    labels = np.append(np.random.default_rng(seed).integers(0, 3, 500), [0, 1, 2])
    priors = resolve_priors(dict(zip(NAMES, shares.tolist(), strict=True)), NAMES, labels)
    weights = priors.weigh(labels)
    found = np.bincount(labels, weights=weights) / weights.sum()
    assert found == pytest.approx(shares, abs=0.01)
    shifted = priors.shift(np.array([[0.2, 0.3, 0.5]]))
    odds = shifted[0, 0] / shifted[0, 1] / (0.2 / 0.3)
    assert odds == pytest.approx(shares[0] / shares[1] * priors.training[1] / priors.training[0])


def test_words_stand_for_shares() -> None:
    labels = np.repeat([0, 1], [60, 20])
    training = resolve_priors("training", NAMES, labels)
    assert training.served == training.training == pytest.approx((60.5 / 81.5, 20.5 / 81.5, 0.5 / 81.5))
    assert not training.is_shifted and (training.weigh(labels) == 1).all()
    uniform = resolve_priors("uniform", NAMES, labels)
    assert uniform.served == pytest.approx(BASE) and uniform.is_shifted


@pytest.mark.parametrize("given", [{"good": 1.0}, {"good": 0.5, "short": 0.3, "spurs": 0.2}])
def test_other_classes_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must name the classes good, short, spur.* Got good"):
        resolve_priors(given, NAMES, np.arange(9) % 3)
