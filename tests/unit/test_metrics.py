"""Metrics against scikit-learn and SciPy, and the promises of their intervals."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss, precision_recall_fscore_support

from metal_defects.metrics import (
    Metrics,
    Score,
    accuracy_interval,
    classification_metrics,
    design_effect,
    format_accuracy,
    image_losses,
    share,
)

SCORES = ("precision", "recall", "f1")


def names(count: int) -> list[str]:
    return [f"class {index}" for index in range(count)]


def certain(predicted: Sequence[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[list(predicted)]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    classes, images = draw(st.integers(2, 12)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, classes, images)
    probabilities = random.dirichlet(np.full(classes, 0.4), images)
    probabilities[np.arange(images), labels] += draw(st.sampled_from([0.0, 0.5, 5.0]))
    return labels, (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)


def all_intervals(metrics: Metrics) -> list[Score]:
    macro = [getattr(metrics, name) for name in ("accuracy", *(f"macro_{score}" for score in SCORES))]
    return macro + [getattr(row, score) for row in metrics.per_class for score in SCORES]


@settings(max_examples=60, deadline=None)
@given(predictions(), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_every_interval_holds_its_value(case: tuple[np.ndarray, np.ndarray], confidence: float) -> None:
    labels, probabilities = case
    metrics = classification_metrics(labels, probabilities, names(probabilities.shape[1]), confidence)
    for interval in all_intervals(metrics):
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert interval.low < interval.high
    assert Metrics.model_validate_json(metrics.model_dump_json()) == metrics


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_values_agree_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    metrics = classification_metrics(labels, probabilities, names(len(classes)))
    expected = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for score, values in zip((*SCORES, "support"), expected, strict=True):
        got = [row.support if score == "support" else getattr(row, score).value for row in metrics.per_class]
        assert got == pytest.approx(values)
    present = np.unique(labels)
    macro = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.macro_f1.value == pytest.approx(macro)
    doubles = probabilities.astype(float) / probabilities.astype(float).sum(axis=1, keepdims=True)
    assert metrics.log_loss == pytest.approx(log_loss(labels, doubles, labels=classes))
    assert np.trace(metrics.confusion_matrix) == metrics.correct == int((labels == predicted).sum())
    assert metrics.misjudged == tuple(index for index in range(len(labels)) if labels[index] != predicted[index])
    assert metrics.absent_classes == tuple(f"class {index}" for index in classes if index not in present)


@given(st.integers(1, 5000), st.data(), st.floats(0.5, 0.999))
def test_accuracy_interval_is_wilsons(total: int, data: st.DataObject, confidence: float) -> None:
    correct = data.draw(st.integers(0, total))
    expected = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert accuracy_interval(correct, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)
    low, high = accuracy_interval(total - correct, total, confidence)
    assert (1 - high, 1 - low) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 300), st.data())
def test_more_confidence_and_fewer_images_widen_the_interval(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = accuracy_interval(correct, total)
    wide_low, wide_high = accuracy_interval(correct, total, 0.99)
    assert wide_low <= low and high <= wide_high
    many_low, many_high = accuracy_interval(10 * correct, 10 * total)
    assert many_high - many_low < high - low


def test_72_of_72_says_only_95_percent() -> None:
    labels = np.repeat(np.arange(6), 12)
    metrics = classification_metrics(labels, certain(labels, 6), names(6))
    assert format_accuracy(metrics) == "100.0 % (94.9–100.0), 72/72"
    for score in SCORES:
        assert getattr(metrics, f"macro_{score}").value == 1
        assert 0.9 < getattr(metrics, f"macro_{score}").low < 0.97
    expected = binomtest(12, 12).proportion_ci(0.95, "wilson")
    assert metrics.per_class[0].recall.low == pytest.approx(expected.low)
    assert metrics.misjudged == ()


def test_one_error_in_many_never_reads_as_faultless() -> None:
    labels = np.zeros(5000, int)
    metrics = classification_metrics(labels, certain([1] + [0] * 4999, 2), names(2))
    assert format_accuracy(metrics).startswith("99.9 % (")


def test_the_order_of_images_and_classes_does_not_matter() -> None:
    random = np.random.default_rng(3)
    labels, probabilities = random.integers(0, 4, 80), random.dirichlet(np.ones(4), 80)
    first = classification_metrics(labels, probabilities, names(4))
    order = random.permutation(80)
    swapped = classification_metrics(3 - labels[order], probabilities[order, ::-1], names(4))
    for key in ("accuracy", "macro_precision", "macro_recall", "macro_f1"):
        assert dict(getattr(swapped, key)) == pytest.approx(dict(getattr(first, key)))
    for mirrored, row in zip(reversed(swapped.per_class), first.per_class, strict=True):
        assert dict(mirrored.f1) == pytest.approx(dict(row.f1))


def test_absent_classes_are_named_and_left_out_of_macro_averages() -> None:
    labels = np.array([0, 0, 2, 2])
    metrics = classification_metrics(labels, certain([0, 0, 2, 2], 3), names(3))
    assert metrics.absent_classes == ("class 1",)
    assert metrics.macro_recall.value == metrics.macro_precision.value == 1
    assert metrics.per_class[1].recall == Score(value=0, low=0, high=1)
    assert metrics.confusion_matrix == ((2, 0, 0), (0, 0, 0), (0, 0, 2))


def test_certain_and_wrong_keeps_the_loss_finite() -> None:
    assert 10 < classification_metrics(np.array([0]), certain([1], 2), names(2)).log_loss < 1000


@pytest.mark.parametrize("right", [0.99, 0.9, 0.7])
def test_macro_intervals_cover_the_truth(right: float) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 12)
    truth = dict.fromkeys((f"macro_{score}" for score in SCORES), right)
    covered = dict.fromkeys(truth, 0)
    for _ in range(100):
        wrong = (labels + random.integers(1, 6, len(labels))) % 6
        predicted = np.where(random.random(len(labels)) < right, labels, wrong)
        metrics = classification_metrics(labels, certain(predicted, 6), names(6))
        for key, value in truth.items():
            covered[key] += getattr(metrics, key).low <= value <= getattr(metrics, key).high
    assert min(covered.values()) >= 88


RIGHT = np.array([[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "class_names", "confidence", "message"),
    [
        ([0, 1], RIGHT, ["a"], 0.95, "at least 2 distinct names"),
        ([0, 1], RIGHT, ["a", "a"], 0.95, "at least 2 distinct names"),
        ([], np.zeros((0, 2)), ["a", "b"], 0.95, "labels must be integers"),
        ([0.0, 1.0], RIGHT, ["a", "b"], 0.95, "labels must be integers"),
        ([[0, 1]], RIGHT, ["a", "b"], 0.95, "labels must be integers"),
        ([0, 2], RIGHT, ["a", "b"], 0.95, r"lie in \[0, 2\)"),
        ([-1, 1], RIGHT, ["a", "b"], 0.95, r"lie in \[0, 2\)"),
        ([0, 1, 1], RIGHT, ["a", "b"], 0.95, "shape"),
        ([0, 1], RIGHT, ["a", "b", "c"], 0.95, "shape"),
        ([0, 1], RIGHT * np.nan, ["a", "b"], 0.95, "finite"),
        ([0, 1], np.eye(2, dtype=int), ["a", "b"], 0.95, "floating-point"),
        ([0, 1], RIGHT * 5, ["a", "b"], 0.95, "softmax"),
        ([0, 1], np.array([[1.5, -0.5], [0.5, 0.5]]), ["a", "b"], 0.95, "softmax"),
        ([0, 1], RIGHT, ["a", "b"], 1.0, "confidence"),
    ],
)
def test_unusable_arguments_are_refused(
    labels: list, probabilities: np.ndarray, class_names: list[str], confidence: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(labels), probabilities, class_names, confidence)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="0 <= correct <= total"):
        accuracy_interval(correct, total)


def test_share_carries_its_interval_and_its_number_of_images() -> None:
    found = share(72, 72)
    assert (found.value, found.high, found.n) == (1, 1, 72)
    assert found.low == pytest.approx(0.949, abs=1e-3)


def test_image_losses_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 4, 30), random.dirichlet(np.ones(4), 30)
    assert image_losses(labels, probabilities).mean() == pytest.approx(log_loss(labels, probabilities, labels=range(4)))
    assert np.isfinite(image_losses(np.array([0]), np.array([[0.0, 1.0]]))).all()


def test_design_effect_of_known_groups() -> None:
    right, alone, twelves = np.ones(72, bool), np.arange(72), np.arange(72) // 12
    assert design_effect(right, alone) == 1
    # Without an error nothing tells images of one piece apart: six pieces of twelve images are six.
    assert design_effect(right, twelves) == pytest.approx(12)
    assert accuracy_interval(72, 72, effect=12) == pytest.approx(accuracy_interval(6, 6))
    # Whole pieces are wrong: still 12; errors whose groupmates are right: hardly more than 1.
    assert design_effect(twelves > 2, twelves) == pytest.approx(12)
    assert design_effect(alone % 12 > 0, twelves) == pytest.approx(1)
    # Uneven groups: one of 8 and two of 1, a typical image has 6.6 of its piece.
    assert design_effect(np.ones(10, bool), np.array([0] * 8 + [1, 2])) == pytest.approx(6.6)
    assert design_effect(np.zeros(0, bool), np.zeros(0)) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60))
def test_design_effect_lies_between_images_and_pieces(drawn: list[tuple[bool, int]]) -> None:
    right, groups = (np.array(part) for part in zip(*drawn, strict=True))
    sizes = np.unique(groups, return_counts=True)[1]
    assert 1 <= design_effect(right, groups) <= (sizes**2).sum() / sizes.sum() + 1e-9
    assert design_effect(right, groups) == pytest.approx(design_effect(~right, groups))


def test_intervals_of_clustered_errors_hold_what_they_promise() -> None:
    """Pieces of ten images, one in five of them wrong as a whole: image-wise intervals miss 80 % far too often."""
    rng, covered = np.random.default_rng(0), Counter[str]()
    groups = np.repeat(np.arange(40), 10)
    for _ in range(400):
        right = np.repeat(rng.random(40) < 0.8, 10)
        for name, effect in (("images", 1.0), ("pieces", design_effect(right, groups))):
            low, high = accuracy_interval(int(right.sum()), len(right), effect=effect)
            covered[name] += low <= 0.8 <= high
    assert covered["images"] < 300
    assert covered["pieces"] >= 350


def test_groups_widen_every_interval_and_change_no_value() -> None:
    labels = np.arange(120) % 3
    probabilities = certain(np.where(np.arange(120) < 12, (labels + 1) % 3, labels).tolist(), 3)
    plain = classification_metrics(labels, probabilities, names(3))
    grouped = classification_metrics(labels, probabilities, names(3), groups=np.arange(120) // 12)
    assert plain == classification_metrics(labels, probabilities, names(3), groups=np.arange(120).astype(str))
    for name in ("accuracy", "macro_recall", "macro_precision", "macro_f1"):
        one, other = getattr(plain, name), getattr(grouped, name)
        assert other.value == one.value
        assert other.low < one.low
        assert other.high > one.high
    assert all(other.recall.low < one.recall.low for one, other in zip(plain.per_class, grouped.per_class, strict=True))
