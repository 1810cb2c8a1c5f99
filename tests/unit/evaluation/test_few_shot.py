"""A few labelled images: views of the same surface, and a head that one image per class is enough for."""

import numpy as np
import pytest

from metal_defects.evaluation.few_shot import crop_view, fit_few_shot_head

TAPS = [slice(0, 8), slice(8, 20)]
MEANS = [*range(4), *range(8, 14)]
VARIANCES = [*range(4, 8), *range(14, 20)]


def draw_bank(per_class: int, nuisance: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (5, images, 20) of three classes; in the channel means, views and images move by `nuisance`."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), per_class)
    centres = np.random.default_rng(99).normal(0, 1, (3, 20))
    features = centres[labels] + random.normal(0, 0.3, (5, len(labels), 20))
    features[..., MEANS] += random.normal(0, nuisance, (5, len(labels), len(MEANS)))
    features[..., VARIANCES] = np.exp(features[..., VARIANCES])
    return features.astype(np.float32), labels


@pytest.mark.parametrize("per_class", [1, 5])
def test_few_images_are_enough_for_clear_classes(per_class: int) -> None:
    features, labels = draw_bank(per_class)
    predict = fit_few_shot_head(TAPS)(features, labels, labels, 0)
    tested, truth = draw_bank(40, seed=7)
    assert (predict(tested[0]).argmax(axis=1) == truth).mean() > 0.9


def test_what_the_views_move_is_not_believed() -> None:
    features, labels = draw_bank(1, nuisance=2)
    tested, truth = draw_bank(40, nuisance=2, seed=7)
    with_views = fit_few_shot_head(TAPS)(features, labels, labels, 0)
    without = fit_few_shot_head(TAPS)(features[:1], labels, labels, 0)
    right = [(predict(tested[0]).argmax(axis=1) == truth).mean() for predict in (with_views, without)]
    assert right[0] > right[1] + 0.05


def test_a_class_without_images_is_never_answered() -> None:
    features, labels = draw_bank(3)
    predict = fit_few_shot_head(TAPS)(features[:, labels != 1], labels[labels != 1], labels[labels != 1], 0)
    assert set(predict(features[0]).argmax(axis=1)) == {0, 2}


def test_crops_repeat_themselves_and_show_a_part() -> None:
    image = np.random.default_rng(0).integers(60, 190, (48, 48, 3), dtype=np.uint8)
    before = image.copy()
    views = [crop_view(image, (3, view)) for view in range(10)]
    assert all(view.shape == image.shape and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[0], crop_view(image, (3, 0)))
    assert len({view.tobytes() for view in views}) == 10
    assert np.array_equal(image, before)
