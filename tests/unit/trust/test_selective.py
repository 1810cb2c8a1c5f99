"""Selective classification: the promise holds on new answers, more risk never accepts less, NaN is never accepted."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.trust.selective import Answers, choose_threshold, cross_fit_thresholds, judge_selection

confidences = st.floats(0.1, 1) | st.sampled_from([0.9, 0.99, 1.0]) | st.just(float("nan"))
rows = st.lists(st.tuples(confidences, st.booleans(), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=60)


def make(pairs: list[tuple[float, bool, float]]) -> Answers:
    confidence, wrong, weights = zip(*pairs, strict=True)
    return Answers(np.array(confidence), np.array(wrong), np.array(weights), np.arange(len(confidence)))


def draw(count: int, difficulty: float, random: np.random.Generator) -> Answers:
    """Answers of a calibrated model; the greater the difficulty, the more of them are wrong."""
    risk = 1 / (1 + np.exp(difficulty + 3 * random.normal(size=count)))
    return Answers(1 - risk, random.random(count) < risk, np.ones(count), np.arange(count))


def accept(answers: Answers, max_risk: float) -> np.ndarray:
    threshold, _ = choose_threshold(answers, max_risk)
    return np.zeros(len(answers.wrong), bool) if threshold is None else answers.confidence >= threshold


@given(rows, st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_more_risk_never_accepts_less(pairs: list[tuple[float, bool, float]], one: float, other: float) -> None:
    answers = make(pairs)
    low, high = (accept(answers, risk) for risk in sorted((one, other)))
    assert not (low & ~high).any()


@given(rows, st.floats(0.001, 0.9))
def test_what_is_accepted_keeps_the_risk_and_is_no_broken_answer(
    pairs: list[tuple[float, bool, float]], max_risk: float
) -> None:
    answers = make(pairs)
    accepted = accept(answers, max_risk)
    assert not np.isnan(answers.confidence[accepted]).any()
    wrong = (answers.weights * answers.wrong)[accepted].sum()
    assert wrong <= max_risk * answers.weights[accepted].sum() * (1 + 1e-6)


@settings(max_examples=50)
@given(rows, st.floats(0.001, 0.9), st.randoms())
def test_order_and_scale_of_the_weights_do_not_matter(
    pairs: list[tuple[float, bool, float]], max_risk: float, random: "np.random.Generator"
) -> None:
    answers, shuffled = make(pairs), list(pairs)
    random.shuffle(shuffled)
    heavier = make([(confidence, wrong, 4 * weight) for confidence, wrong, weight in shuffled])
    assert choose_threshold(answers, max_risk) == choose_threshold(heavier, max_risk)


@pytest.mark.parametrize("count", [60, 300, 1000])
@pytest.mark.parametrize("difficulty", [3.0, 5.0, 9.0])
def test_the_promise_holds_on_new_answers(count: int, difficulty: float) -> None:
    """Of all answers that are accepted over many choices, no more are wrong than was stated."""
    random = np.random.default_rng(count)
    new = draw(50_000, difficulty, random)
    stated, accepted, wrong = 0.01, 0, 0
    for _ in range(150):
        threshold, _ = choose_threshold(draw(count, difficulty, random), stated)
        if threshold is not None:
            rows = new.confidence >= threshold
            accepted, wrong = accepted + int(rows.sum()), wrong + int(new.wrong[rows].sum())
    assert accepted > 0 and wrong / accepted <= 1.1 * stated, "a tenth for chance"


def test_choosing_is_not_naive() -> None:
    """The most that keeps the risk on the very answers would break it on new ones."""
    answers = make([(1 - number / 1000, number == 300, 1.0) for number in range(350)])
    assert choose_threshold(answers, 0.005) == (pytest.approx(1 - 299 / 1000), True)
    assert choose_threshold(answers, 0.006) == (pytest.approx(1 - 349 / 1000), True)


def test_counting_takes_enough_answers() -> None:
    sure, unsure = ([(confidence, False, 1.0)] for confidence in (0.999, 0.9))
    assert choose_threshold(make(sure * 200), 0.005) == (0.999, True)
    assert choose_threshold(make(sure * 199), 0.005) == (0.999, False), "the confidence vouches for them"
    assert choose_threshold(make(unsure * 199), 0.005) == (None, False)
    assert choose_threshold(make(unsure * 200), 0.005) == (0.9, True), "what was counted needs no vouching"


def test_a_heavy_class_needs_more_answers() -> None:
    """Where defects are rare on the line, the few good parts of the training count for many."""
    light, heavy = [(0.9, False, 0.1)] * 150, [(0.9, False, 3.0)] * 150
    assert choose_threshold(make(light + heavy), 0.01) == (0.9, True)
    assert choose_threshold(make(light + heavy), 0.005) == (None, False)


def test_thresholds_never_see_their_own_fold() -> None:
    random = np.random.default_rng(2)
    answers, folds = draw(600, 5.0, random), np.arange(600) % 3
    before = cross_fit_thresholds(answers, folds, 0.02, 0.0)
    changed = Answers(
        answers.confidence, np.where(folds == 1, ~answers.wrong, answers.wrong), answers.weights, answers.groups
    )
    after = cross_fit_thresholds(changed, folds, 0.02, 0.0)
    assert (before[folds == 1] == after[folds == 1]).all() and (before[folds == 0] != after[folds == 0]).all()
    hopeless = replace(answers, wrong=~answers.wrong)
    assert np.isinf(cross_fit_thresholds(hopeless, folds, 0.02, 0.0)).all()


def test_report_adds_up() -> None:
    answers = draw(1000, 5.0, np.random.default_rng(3))
    found = judge_selection(answers, np.arange(1000) % 5, 0.005, 0.8)
    offers = (found.chosen, *found.others)
    assert [one.max_risk for one in offers] == [0.005, 0.01, 0.02, 0.05]
    assert all(one.accepted.value <= other.accepted.value for one, other in pairwise(offers))
    assert min(one.threshold for one in offers) >= 0.8
    last = found.points[-1]
    assert last.coverage == 1 and last.risk.value == pytest.approx(answers.wrong.mean())
    assert 0 < found.area < last.risk.value, "confidence ranks the answers"
    assert all(point.risk.low <= point.risk.value <= point.risk.high for point in found.points)


def test_what_the_guard_holds_back_is_never_accepted() -> None:
    answers = draw(1000, 9.0, np.random.default_rng(4))
    held = Answers(
        np.where(np.arange(1000) < 300, np.nan, answers.confidence), answers.wrong, answers.weights, answers.groups
    )
    found = judge_selection(held, np.arange(1000) % 5, 0.01, 0.0)
    assert found.points[-1].coverage == pytest.approx(0.7) and found.chosen.accepted.value <= 0.7


def test_intervals_count_pieces_where_their_images_go_together() -> None:
    """Ten images of each piece, right or wrong together, tell no more than one of each."""
    alone = draw(200, 6.0, np.random.default_rng(5))
    rows = np.repeat(np.arange(200), 10)
    images = alone.take(rows)
    assert alone.share(alone.wrong).high == pytest.approx(images.share(images.wrong).high, abs=0.01)
    apart = replace(images, groups=np.arange(2000))
    assert apart.share(apart.wrong).high < images.share(images.wrong).high - 0.01
