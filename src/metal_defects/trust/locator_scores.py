"""Localisation metrics: how well heat maps and boxes show where the defects are, beside what a guess would score.

- Pointing game: share of images in which the centre of the hottest cell lies in a box (Zhang et al., IJCV 126 (2018)
  1084-1102).
- Energy: share of a map's heat that lies in the boxes (Wang et al., Score-CAM, CVPR workshops 2020), mean over images.
- IoU: the map's mask, heat from the threshold up, against the union of the boxes, mean over images.
- AP50: found boxes against true ones, whatever their class; a found box is right if it overlaps a true one that no
  surer box has taken by an IoU of 0.5 or more; area under the precision-recall curve, precision made monotonic
  (Everingham et al., Pascal VOC 2010).

For energy and IoU, maps are interpolated bilinearly to POINTS × POINTS. Images without boxes are left out.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from metal_defects.inference.boxes import Box, find_boxes
from metal_defects.metrics import DEFAULT_CONFIDENCE, Score, share
from metal_defects.records import Record
from metal_defects.trust.locator_targets import draw_boxes, fit_linear, mask_iou, pool_means, stretch

POINTS = 112
OVERLAP = 0.5
RESAMPLES = 500


class MapScores(Record):
    """How well heat maps show where the defects are; see above.

    Attributes:
        images: with boxes.
        boxes: in them.
        threshold: of the masks.
        box_threshold: of the boxes.
    """

    images: int
    boxes: int
    threshold: float
    box_threshold: float
    pointing: Score
    energy: Score
    iou: Score
    ap50: Score


class Baselines(Record):
    """What a guess would score: the centre, Grad-CAM, and chance, which is the share of the area in boxes."""

    centre: MapScores
    grad_cam: MapScores
    share_of_area: float


class LocatorFindings(Record):
    """What the locator learned from, on how many images, and its scores on held-out ones beside baselines."""

    kind: Literal["boxes", "labels"]
    trained_on: int
    scores: MapScores
    baselines: Baselines


def score_maps(
    heat_maps: np.ndarray,
    boxes: Sequence[np.ndarray],
    threshold: float,
    box_threshold: float | None = None,
) -> MapScores:
    """All scores of some images' heat maps.

    Args:
        heat_maps: (images, rows, columns) in [0, 1].
        boxes: true ones of each image, left, top, right, bottom as shares of the sides, (n, 4).
        threshold: of the masks; chosen on other images.
        box_threshold: of the boxes, likewise; that of the masks where None.

    Returns:
        95 % intervals: Wilson's for pointing, normal for the means, a bootstrap over images for AP50.

    Raises:
        ValueError: the arguments have different lengths, or no image has a box.
    """
    box_threshold = threshold if box_threshold is None else box_threshold
    kept = [index for index, each in enumerate(boxes) if len(each)]
    if len(heat_maps) != len(boxes) or not kept:
        raise ValueError(
            f"score_maps needs boxes for each map, and some. Got {len(heat_maps)} maps, {len(kept)} with boxes, "
            f"and {len(boxes)} lists of boxes."
        )
    found = [find_boxes(heat_maps[index], box_threshold) for index in kept]
    true = [np.asarray(boxes[index], float) for index in kept]
    maps, masks = stretch(heat_maps[kept], POINTS), np.stack([draw_boxes(each, POINTS) for each in true])
    return MapScores(
        images=len(kept),
        boxes=sum(len(each) for each in true),
        threshold=threshold,
        box_threshold=box_threshold,
        pointing=share(int(point_hits(heat_maps[kept], masks).sum()), len(kept)),
        energy=_mean(energy_inside(maps, masks)),
        iou=_mean(mask_iou(maps >= threshold, masks)),
        ap50=_bootstrap(match_boxes(found, true), [len(t) for t in true]),
    )


def point_hits(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Whether the centre of each map's hottest cell, the first of equals, lies in its mask, bool (images,)."""
    images, rows, columns = maps.shape
    row, column = np.divmod(maps.reshape(images, -1).argmax(axis=1), columns)
    down = ((row + 0.5) / rows * masks.shape[1]).astype(int)
    across = ((column + 0.5) / columns * masks.shape[2]).astype(int)
    return masks[np.arange(images), down, across]


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each map's heat that lies in its mask, (images,); the mask's area where there is no heat at all."""
    total = maps.sum(axis=(1, 2))
    inside = (maps * masks).sum(axis=(1, 2)) / np.where(total > 0, total, 1)
    return np.where(total > 0, inside, masks.mean(axis=(1, 2)))


def match_boxes(found: Sequence[Sequence[Box]], true: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Per image, score and whether it is right of every found box, float (boxes, 2), the surest first."""
    matched = []
    for boxes, targets in zip(found, true, strict=True):
        free, rows = np.ones(len(targets), bool), []
        for box in sorted(boxes, key=lambda box: -box.score):
            overlaps = box_ious(np.array([box.left, box.top, box.right, box.bottom]), targets) * free
            best = int(overlaps.argmax()) if len(targets) else 0
            right = len(targets) > 0 and overlaps[best] >= OVERLAP
            if right:
                free[best] = False
            rows.append((box.score, right))
        matched.append(np.array(rows, float).reshape(-1, 2))
    return matched


def box_ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box, (4,), with others, (n, 4); left, top, right, bottom. Shape (n,)."""
    corners = np.concatenate([np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])], axis=1)
    both = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return both / np.maximum(areas - both, 1e-12)


def average_precision(matches: np.ndarray, boxes: int) -> float:
    """Area under the precision-recall curve.

    Args:
        matches: score and rightness of every found box of every image, (n, 2), in any order.
        boxes: number of true ones.
    """
    if not len(matches) or not boxes:
        return 0.0
    right = matches[np.argsort(-matches[:, 0], kind="stable"), 1]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((precision * right).sum() / boxes)


def draw_centre(count: int, cells: int) -> np.ndarray:
    """Heat maps that point at the centre, whatever the image shows, float32 (count, cells, cells)."""
    away = np.abs((np.arange(cells) + 0.5) / cells - 0.5)
    heat = 1 - np.sqrt(away[:, None] ** 2 + away[None, :] ** 2) / np.sqrt(0.5)
    return np.repeat(heat[None].astype(np.float32), count, axis=0)


def share_of_area(boxes: Sequence[np.ndarray]) -> float:
    """Mean share of an image that its boxes cover: how often a blind guess points into one."""
    return float(np.mean([draw_boxes(each, POINTS).mean() for each in boxes if len(each)]))


def draw_grad_cam(maps: np.ndarray, labels: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the usual classifier: a linear one on the last layer

    Behind global average pooling the gradient of a logit is that class's weights, so that no gradient is needed. The
    class is the one that the classifier predicts.

    Args:
        maps: the last feature map of the training images, (images, side, side, channels).
        labels: their class indices, (images,).
        targets: feature maps of the images to draw.

    Returns:
        float32 (len(targets), side, side); the hottest cell of each image is 1, unless all are 0.
    """
    model, centre, spread = fit_linear(pool_means(maps), labels)
    weights = np.concatenate([-model.coef_, model.coef_]) if len(model.coef_) == 1 else model.coef_
    predicted = np.searchsorted(model.classes_, model.predict((pool_means(targets) - centre) / spread))
    chosen = (weights / spread)[predicted].astype(np.float32)
    heat = np.stack([one.astype(np.float32) @ row for one, row in zip(targets, chosen, strict=True)])
    heat = np.maximum(heat, 0)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-12)


def _mean(values: np.ndarray) -> Score:
    mean, half = float(values.mean()), 0.0
    if len(values) > 1:
        critical = NormalDist().inv_cdf((1 + DEFAULT_CONFIDENCE) / 2)
        half = critical * float(values.std(ddof=1)) / np.sqrt(len(values))
    return Score(value=mean, low=max(0.0, float(mean - half)), high=min(1.0, float(mean + half)))


def _bootstrap(matches: Sequence[np.ndarray], counts: Sequence[int]) -> Score:
    """Average precision with percentiles over resampled images; the value always lies within."""
    value, random = average_precision(np.concatenate(matches), sum(counts)), np.random.default_rng(0)
    draws = random.integers(len(matches), size=(RESAMPLES, len(matches)))
    values = [
        average_precision(np.concatenate([matches[i] for i in draw]), sum(counts[i] for i in draw)) for draw in draws
    ]
    low, high = np.quantile(values, [(1 - DEFAULT_CONFIDENCE) / 2, (1 + DEFAULT_CONFIDENCE) / 2])
    return Score(value=value, low=min(float(low), value), high=max(float(high), value))
