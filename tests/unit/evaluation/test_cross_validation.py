"""Cross-validation: nobody judges what it saw, copies stay together, and the tests of significance are right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.errors import DataError
from metal_defects.evaluation.cross_validation import OutOfFold, out_of_fold
from metal_defects.evaluation.fold_errors import ImageNames, find_label_suspects, judge_folds
from metal_defects.evaluation.heads import Predict, fit_convex_head
from metal_defects.evaluation.significance import compare_answers, compare_models


def draw_bank(
    per_class: int = 20, classes: int = 3, seed: int = 0, distance: float = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Features (2, images, 6) of classes around distinct centres, and labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = random.normal(0, distance, (classes, 6))
    clean = centres[labels] + random.normal(0, 1, (len(labels), 6))
    return np.stack([clean, clean + random.normal(0, 0.3, clean.shape)]).astype(np.float32), labels


def name_images(count: int) -> ImageNames:
    sources = [f"{index}.png" for index in range(count)]
    return ImageNames(sources, [f"pictures/{source}" for source in sources], [("b",)] * count)


def test_no_head_judges_an_image_that_it_saw() -> None:
    features, labels = draw_bank()
    features[:, :, 0] = np.arange(len(labels))
    groups = np.arange(len(labels)) // 2
    seen: list[tuple[set[int], set[int]]] = []

    def fit(rows: np.ndarray, own: np.ndarray, own_groups: np.ndarray, seed: int) -> Predict:
        trained = set(rows[0, :, 0].astype(int))
        assert rows.shape[0] == 2
        assert rows.shape[1] == len(own) == len(own_groups)

        def predict(columns: np.ndarray) -> np.ndarray:
            seen.append((trained, set(columns[:, 0].astype(int))))
            return np.eye(3)[labels[columns[:, 0].astype(int)]]

        return predict

    result = out_of_fold(features, labels, groups, fit, folds=4, repeats=2, workers=1)
    assert len(seen) == 8
    for trained, judged in seen:
        assert not {position // 2 for position in trained} & {position // 2 for position in judged}
    assert sorted(position for _, judged in seen[:4] for position in judged) == list(range(len(labels)))
    assert (result.probabilities.argmax(axis=2) == labels).all()
    assert not np.array_equal(result.folds[0], result.folds[1]), "every repeat is another shuffle"


def test_result_is_the_same_for_the_same_seed() -> None:
    features, labels = draw_bank()
    groups = np.array([f"image_{index}" for index in range(len(labels))])
    runs = [out_of_fold(features, labels, groups, fit_convex_head(), folds=3, seed=5) for _ in range(2)]
    assert runs[0].logits.tobytes() == runs[1].logits.tobytes()
    assert runs[0].mean_probabilities.sum(axis=1) == pytest.approx(1)


def test_few_images_mean_fewer_folds_and_one_is_too_few() -> None:
    features, labels = draw_bank(per_class=3)
    result = out_of_fold(features, labels, np.arange(len(labels)), fit_convex_head(), folds=5)
    assert set(result.folds[0]) == {0, 1, 2}
    with pytest.raises(DataError, match="2 different images"):
        out_of_fold(features, labels, labels, fit_convex_head())


@pytest.mark.parametrize("classes", [2, 5])
def test_convex_head_learns_and_does_not_blow_up_dead_channels(classes: int) -> None:
    features, labels = draw_bank(classes=classes)
    features[:, :, 3] = 1.0
    predict = fit_convex_head()(features, labels, labels, 0)
    assert (predict(features[0]).argmax(axis=1) == labels).mean() > 0.95
    moved = features[0].copy()
    moved[:, 3] += 1e-4
    assert predict(moved) == pytest.approx(predict(features[0]), abs=0.05)


def test_summary_names_every_image_ever_misjudged() -> None:
    features, labels = draw_bank()
    labels[0] = 2
    result = out_of_fold(features, labels, np.arange(len(labels)), fit_convex_head(), repeats=3)
    summary = judge_folds(result, ["a", "b", "c"], name_images(len(labels)))
    wrong = {row.source: row for row in summary.misjudged}["0.png"]
    assert (wrong.true, wrong.predicted, wrong.times) == ("c", "a", 3)
    assert (wrong.picture, wrong.other_boxes) == ("pictures/0.png", ("b",))
    assert "0.png" in [row.source for row in summary.suspects]
    assert len(summary.repeats) == 3
    assert summary.metrics.n == len(labels)
    assert 0 in summary.metrics.misjudged
    assert summary.accuracy.low < summary.accuracy.value < summary.accuracy.high


def test_suspects_are_the_swapped_labels_the_surest_first() -> None:
    labels = np.repeat([0, 1, 2], 40)
    probabilities = np.full((120, 3), 0.05) + 0.85 * np.eye(3)[labels]
    given = labels.copy()
    given[[3, 50, 100]] = (labels[[3, 50, 100]] + 1) % 3
    probabilities[50] = [0.02, 0.97, 0.01]
    # Unsure between two classes is no reason to doubt a label.
    probabilities[10] = [0.49, 0.51, 0.0]
    assert find_label_suspects(given, probabilities).tolist() == [50, 3, 100]


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_suspects_are_those_of_cleanlab(seed: int) -> None:
    from scipy.special import softmax

    rank = pytest.importorskip("cleanlab.filter")
    random = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    logits = random.normal(0, 1, (120, 3)) + 2 * np.eye(3)[(labels + (random.random(120) < 0.1)) % 3]
    probabilities = softmax(logits, axis=1)
    expected = rank.find_label_issues(
        labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence"
    )
    assert find_label_suspects(labels, probabilities).tolist() == expected.tolist()


@given(first=st.integers(0, 30), second=st.integers(0, 30), both=st.integers(0, 30))
@settings(deadline=None)
def test_paired_test_is_the_exact_binomial_one(first: int, second: int, both: int) -> None:
    from scipy.stats import binomtest

    left = np.array([True] * first + [False] * second + [True] * both, bool)
    right = np.array([False] * first + [True] * second + [True] * both, bool)
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert compare_answers(left, right) == pytest.approx(expected)


def test_models_are_ranked_and_only_a_clear_difference_counts() -> None:
    labels = np.zeros(200, int)

    def answer(wrong: int) -> np.ndarray:
        probabilities = np.tile([0.9, 0.1], (200, 1))
        probabilities[:wrong] = [0.2, 0.8]
        return probabilities

    rows = compare_models(labels, {"poor": answer(30), "best": answer(1), "near": answer(3)})
    assert [row.model for row in rows] == ["best", "near", "poor"]
    assert [row.more_than_chance for row in rows] == [None, False, True]
    assert rows[2].only_this_wrong == 29
    # Holm: the smallest of two p values counts twice.
    assert rows[2].p_value == pytest.approx(2 * 2 / 2**29)


def test_one_fold_has_no_spread() -> None:
    logits = np.log(np.array([[[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]], np.float32))
    found = OutOfFold(np.array([0, 1, 1]), logits, np.zeros((1, 3), int), np.arange(3))
    assert judge_folds(found, ["A", "B"], name_images(3)).repeats[0].spread_of_folds is None
