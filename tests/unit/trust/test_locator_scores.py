"""Scores of heat maps and boxes, by hand and by their bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_defects.inference.boxes import Box
from metal_defects.trust.locator_scores import (
    average_precision,
    box_ious,
    draw_centre,
    draw_grad_cam,
    match_boxes,
    score_maps,
    share_of_area,
)
from metal_defects.trust.locator_targets import cover_cells, draw_boxes, mask_iou, stretch

HALF = np.array([[0.0, 0.0, 0.5, 1.0]])
SCORES = ("pointing", "energy", "iou", "ap50")


def perfect_maps(boxes: list[np.ndarray]) -> np.ndarray:
    return np.stack([cover_cells(each, 28) for each in boxes])


def test_a_perfect_map_scores_everything() -> None:
    boxes = [HALF, np.array([[0.25, 0.25, 0.75, 0.5]])]
    scores = score_maps(perfect_maps(boxes), boxes, 0.5)
    assert (scores.images, scores.boxes) == (2, 2)
    assert scores.pointing.value == scores.ap50.value == 1
    assert scores.energy.value > 0.95
    assert scores.iou.value > 0.95


def test_the_opposite_map_scores_nothing() -> None:
    boxes = [HALF] * 3
    scores = score_maps(1 - perfect_maps(boxes), boxes, 0.5)
    assert scores.pointing.value == scores.ap50.value == 0
    assert scores.energy.value < 0.05
    assert scores.iou.value < 0.05


def test_images_without_boxes_are_left_out() -> None:
    boxes = [HALF, np.empty((0, 4))]
    heat = np.concatenate([perfect_maps([HALF]), np.ones((1, 28, 28), np.float32)])
    assert score_maps(heat, boxes, 0.5) == score_maps(heat[:1], boxes[:1], 0.5)
    with pytest.raises(ValueError, match="Got 2 maps, 0 with boxes"):
        score_maps(heat, [np.empty((0, 4))] * 2, 0.5)
    with pytest.raises(ValueError, match="Got 1 maps"):
        score_maps(heat[:1], boxes, 0.5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0.1, 0.9))
def test_every_score_lies_within_its_interval(seed: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((4, 2, 2)), axis=1).reshape(4, 1, 4)
    boxes = [each[:, [0, 1, 2, 3]] for each in corners]
    scores = score_maps(random.random((4, 6, 6), np.float32), boxes, threshold, threshold / 2)
    for name in SCORES:
        score = getattr(scores, name)
        assert 0 <= score.low <= score.value <= score.high <= 1


def test_average_precision_by_hand() -> None:
    """Right, wrong, right of 4: precision 1 up to a recall of 1/4, then 2/3 up to 2/4."""
    matches = np.array([[0.9, 1], [0.8, 0], [0.7, 1]], float)
    assert average_precision(matches, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(matches[::-1], 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(np.empty((0, 2)), 4) == 0


def test_a_true_box_is_found_once() -> None:
    found = (((0, 0, 0.5, 1), 0.5), ((0, 0, 0.45, 1), 0.9), ((0.6, 0, 1, 1), 0.1))
    boxes = [[Box(box=box, score=score) for box, score in found]]
    assert match_boxes(boxes, [HALF])[0].tolist() == [[0.9, 1], [0.5, 0], [0.1, 0]]


def test_box_overlap_by_hand() -> None:
    others = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], float)
    assert box_ious(np.array([0, 0, 0.5, 0.5]), others).tolist() == pytest.approx([0.25, 1, 0])


def test_guesses() -> None:
    assert share_of_area([HALF, np.array([[0, 0, 1, 1.0]]), np.empty((0, 4))]) == pytest.approx(0.75)
    centre = draw_centre(2, 9)
    assert np.unravel_index(centre[1].argmax(), (9, 9)) == (4, 4)
    assert centre.min() >= 0


def test_grad_cam_points_at_what_tells_the_classes_apart() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(30) % 2
    maps = random.normal(0, 0.1, (30, 5, 5, 3)).astype(np.float32)
    for index, label in enumerate(labels):
        maps[index, 1, 3, label] += 5
    heat = draw_grad_cam(maps[:20], labels[:20], maps[20:])
    assert heat.shape == (10, 5, 5)
    assert heat.min() >= 0
    assert all(np.unravel_index(one.argmax(), (5, 5)) == (1, 3) for one in heat)


@settings(deadline=None)
@given(corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_covered_cells_add_up_to_the_area(corners: list[float]) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    share = cover_cells(np.array([[left, top, right, bottom]]), 14).mean()
    assert share == pytest.approx((right - left) * (bottom - top), abs=2.5 / 112)


def test_masks_by_hand() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]])
    assert draw_boxes(boxes, 4).sum() == 7
    assert not draw_boxes(np.empty((0, 4)), 4).any()
    one, none = np.ones((1, 2, 2), bool), np.zeros((1, 2, 2), bool)
    assert [float(mask_iou(*pair)[0]) for pair in ((one, one), (one, none), (none, none))] == [1, 0, 1]
    assert stretch(np.ones((2, 7, 7), np.float32), 14).shape == (2, 14, 14)
