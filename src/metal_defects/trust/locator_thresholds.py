"""Segmentation thresholds of heat maps: chosen on training images, by their boxes or without any."""

from collections.abc import Sequence

import numpy as np

from metal_defects.inference.boxes import find_boxes
from metal_defects.trust.locator_scores import POINTS, average_precision, match_boxes
from metal_defects.trust.locator_targets import draw_boxes, mask_iou, stretch

THRESHOLDS = np.linspace(0.1, 0.9, 33).round(3)


def choose_threshold(heat_maps: np.ndarray, boxes: Sequence[np.ndarray]) -> float:
    """The threshold whose masks agree best with the boxes, by mean intersection over union."""
    masks = np.stack([draw_boxes(each, POINTS) for each in boxes])
    maps = stretch(heat_maps, POINTS)
    scores = [mask_iou(maps >= threshold, masks).mean() for threshold in THRESHOLDS]
    return float(THRESHOLDS[int(np.argmax(scores))])


def choose_box_threshold(heat_maps: np.ndarray, boxes: Sequence[np.ndarray]) -> float:
    """The threshold whose boxes agree best with the true ones, by AP50."""
    scores = []
    for threshold in THRESHOLDS:
        matches = match_boxes([find_boxes(heat_map, threshold) for heat_map in heat_maps], boxes)
        scores.append(average_precision(np.concatenate(matches), sum(len(each) for each in boxes)))
    return float(THRESHOLDS[int(np.argmax(scores))])


def choose_by_contrast(heat_maps: np.ndarray) -> float:
    """The threshold that parts all cells best into two groups (Otsu, IEEE Trans. SMC 9 (1979) 62-66)."""
    values = heat_maps.ravel()
    scores = []
    for threshold in THRESHOLDS:
        high = values >= threshold
        share = high.mean()
        apart = values[high].mean() - values[~high].mean() if 0 < share < 1 else 0.0
        scores.append(share * (1 - share) * apart**2)
    return float(THRESHOLDS[int(np.argmax(scores))])
