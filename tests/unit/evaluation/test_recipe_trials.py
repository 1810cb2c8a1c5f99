"""A trial of a recipe: better features win, groups stay together, damaged views are judged, copies do no harm."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.evaluation import recipe_trials
from metal_defects.evaluation.recipe_trials import Sample, draw_sample, score_recipe
from metal_defects.models.linear_head import PENALTIES, LinearHead
from metal_defects.models.training import Examples, HeadRecipe, class_weights, solve_heads

IMAGES, CLASSES = 90, 3
LABELS = np.arange(IMAGES) % CLASSES


class ToyTrainer:
    """What a trial asks of a trainer, on features that are drawn: tap "good" tells the classes apart, "poor" hardly."""

    def __init__(self, damaged: bool = False, labels: np.ndarray = LABELS) -> None:
        random = np.random.default_rng(0)
        self.labels, self.damaged = labels, damaged
        centres = random.normal(0, 1, (CLASSES, 8))
        noise = random.normal(0, 1, (2, len(labels), 8))
        self.features = {tap: centres[labels] * share + noise for tap, share in (("good", 2.0), ("poor", 0.2))}
        self.fitted: list[Examples] = []

    def examples(self, recipe: HeadRecipe) -> Examples:
        seen = self.features[recipe.taps[0]]
        return Examples(seen if recipe.views == "all" else seen[:1], self.labels)

    def damaged_examples(self, recipe: HeadRecipe) -> Examples | None:
        return Examples(-self.features[recipe.taps[0]][:1], self.labels) if self.damaged else None

    def weigh(self, labels: np.ndarray) -> np.ndarray:
        return class_weights(labels, CLASSES, "balanced")

    def fit_heads(self, recipe: HeadRecipe, train: Examples, *_: object) -> Iterator[LinearHead]:
        self.fitted.append(train)
        return solve_heads(train, self.weigh(train.labels))


def make_recipe(tap: str, views: str = "none") -> HeadRecipe:
    return HeadRecipe(
        taps=(tap,), pooling="moments", views=views, hidden_units=0, l2="auto", label_smoothing=0.0, dropout=0.0,
        learning_rate=0.1, batch_size=8, epochs=1,
    )  # fmt: skip


def make_sample(labels: np.ndarray = LABELS, groups: np.ndarray | None = None) -> Sample:
    return draw_sample(labels, np.arange(len(labels)) if groups is None else groups, len(labels), 3, seed=1)


def test_better_features_win() -> None:
    trainer, sample = ToyTrainer(), make_sample()
    good, poor = (score_recipe(trainer, make_recipe(tap), sample, None, "trial") for tap in ("good", "poor"))
    assert good.losses.mean() < poor.losses.mean() - 0.2
    assert good.right.mean() > poor.right.mean() + 0.2
    assert good.losses.shape == good.right.shape == (IMAGES,)
    assert good.l2 in PENALTIES


def test_answers_belong_to_the_images_that_they_are_of() -> None:
    """Image 5 has the label of another class: its loss, and no other's, is high."""
    labels = LABELS.copy()
    trainer = ToyTrainer()
    trainer.labels = np.where(np.arange(IMAGES) == 5, (labels + 1) % CLASSES, labels)
    score = score_recipe(trainer, make_recipe("good"), make_sample(trainer.labels), None, "trial")
    assert not score.right[5]
    assert int(score.losses.argmax()) == 5


def test_a_damaged_view_is_judged_and_never_learnt_from() -> None:
    """The damage of the toy turns every feature round, so that hardly an answer is right."""
    trainer, sample = ToyTrainer(damaged=True), make_sample()
    score = score_recipe(trainer, make_recipe("good"), sample, None, "trial")
    assert score.damaged_right is not None and score.damaged_right.shape == (IMAGES,)
    assert score.damaged_right.mean() < 0.4 < score.right.mean()
    assert all(len(train.features) == 1 for train in trainer.fitted)
    without = score_recipe(ToyTrainer(), make_recipe("good"), sample, None, "trial")
    assert without.damaged_right is None
    assert np.allclose(without.losses, score.losses), "what is damaged chooses nothing"


def test_views_are_learnt_from_where_the_recipe_says_so() -> None:
    trainer = ToyTrainer()
    score_recipe(trainer, make_recipe("good", "all"), make_sample(), None, "trial")
    assert [train.features.shape[0] for train in trainer.fitted] == [2] * 3


def test_a_class_of_few_images_counts_as_much_as_the_others() -> None:
    labels = np.sort(np.concatenate([np.zeros(70, int), np.full(10, 1), np.full(10, 2)]))
    score = score_recipe(ToyTrainer(labels=labels), make_recipe("poor"), make_sample(labels), None, "trial")
    weights = class_weights(labels, CLASSES, "balanced")
    plain = score.losses / weights[labels]
    assert score.losses.mean() == pytest.approx(np.mean([plain[labels == label].mean() for label in range(CLASSES)]))


def test_the_path_ends_where_there_is_no_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, sample = make_recipe("good"), make_sample()
    assert score_recipe(ToyTrainer(), recipe, sample, None, "trial").l2 < PENALTIES[0], "a weaker one is better"
    monkeypatch.setattr(recipe_trials, "HOPELESS", 0.0)
    assert score_recipe(ToyTrainer(), recipe, sample, None, "trial").l2 == PENALTIES[0]


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=20, max_size=150),
    per_group=st.integers(1, 4),
    most=st.integers(5, 200),
    seed=st.integers(0, 100),
)
def test_samples_keep_groups_together_and_every_image_is_judged_once(
    labels: list[int], per_group: int, most: int, seed: int
) -> None:
    classes = np.sort(np.array([*labels, *[0, 1, 2] * 2 * per_group]))
    groups = np.concatenate([
        1000 * label + np.arange((classes == label).sum()) // per_group for label in range(3)
    ])  # fmt: skip
    sample = draw_sample(classes, groups, most, 5, seed)
    left_out = np.setdiff1d(np.arange(len(classes)), sample.rows)
    assert not set(groups[left_out]) & set(groups[sample.rows])
    assert set(classes[sample.rows]) == {0, 1, 2}
    if most >= len(classes):
        assert len(sample.rows) == len(classes)
    assert 2 <= len(sample.folds) <= 5
    assert sorted(np.concatenate([test for _, test in sample.folds])) == list(range(len(sample.rows)))
    for rest, test in sample.folds:
        assert not set(groups[sample.rows[rest]]) & set(groups[sample.rows[test]])


def test_a_sample_is_about_as_large_as_asked_and_follows_its_seed() -> None:
    labels, groups = np.arange(1800) % 6, np.arange(1800)
    sizes = {most: len(draw_sample(labels, groups, most, 3, 1).rows) for most in (400, 1500)}
    assert sizes[400] == pytest.approx(400, rel=0.2)
    assert sizes[1500] == 1800, "it is cut in whole parts"
    first, again, other = (draw_sample(labels, groups, 400, 3, seed).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
