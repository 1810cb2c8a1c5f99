"""What the locator learns to draw: the cells that boxes cover, or the cells that speak for an image's label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.inference.boxes import interpolation_matrix

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

POINTS_PER_CELL = 8
# Weight of what the shallowest layer says beside the deepest one: it sees thin defects that the deepest one blurs.
SHALLOW_SHARE = 0.5
# Standard deviation of the smoothing, as a share of the side; it bridges the gaps between a defect's own cells.
SMOOTHING = 0.054
# How sure a cell one standard deviation above the image's mean is, in log-odds.
SHARPNESS = 2.0
INVERSE_L2 = 0.01


def cover_cells(boxes: np.ndarray, cells: int) -> np.ndarray:
    """Share of each cell that lies in any of the boxes, float32 (cells, cells).

    Args:
        boxes: left, top, right, bottom as shares of the image's sides, (n, 4).
        cells: per side.
    """
    return share_cells(draw_boxes(boxes, cells * POINTS_PER_CELL))


def share_cells(mask: np.ndarray) -> np.ndarray:
    """Mean of a mask (side, side) over cells of POINTS_PER_CELL points a side, float32 (cells, cells)."""
    cells = len(mask) // POINTS_PER_CELL
    return mask.astype(np.float32).reshape(cells, POINTS_PER_CELL, cells, POINTS_PER_CELL).mean(axis=(1, 3))


def draw_boxes(boxes: np.ndarray, side: int) -> np.ndarray:
    """Which points of an even grid lie in any of the boxes, bool (side, side)."""
    points = (np.arange(side) + 0.5) / side
    left, top, right, bottom = np.asarray(boxes, float).reshape(-1, 4).T[..., None]
    columns, rows = (points >= left) & (points < right), (points >= top) & (points < bottom)
    return (rows[:, :, None] & columns[:, None, :]).any(axis=0)


def mask_iou(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of masks, bool (images, side, side) each; 1 where both are empty. Shape (images,)."""
    both, either = (found & true).sum(axis=(1, 2)), (found | true).sum(axis=(1, 2))
    return np.where(either, both / np.maximum(either, 1), 1.0)


def stretch(maps: np.ndarray, cells: int) -> np.ndarray:
    """Bilinear interpolation of (images, side, side) to (images, cells, cells)."""
    matrix = interpolation_matrix(maps.shape[1], cells)
    return matrix @ maps @ matrix.T


def weigh_labels(maps: Sequence[np.ndarray], labels: np.ndarray, cells: int) -> np.ndarray:
    """How much each cell speaks for the label of its image, float32 (images, cells, cells) in (0, 1).

    A linear classifier on the means and variances of a feature map is a sum over cells: cell i adds
    w_mean · (x_i - mean) + w_var · (x_i - mean)² to the logit. That sum, with every class's mean weight taken off,
    is class activation mapping (Zhou et al., CVPR 2016) for moments instead of means. It is taken from the deepest
    layer; its means part from the shallowest one sharpens it.

    Args:
        maps: feature maps (images, side, side, channels), shallow to deep.
        labels: class indices of two classes or more, (images,).
        cells: per side of the result.
    """
    from scipy.ndimage import gaussian_filter

    total = _standardise_each(stretch(_contribute(maps[-1], labels, variances=True), cells))
    if len(maps) > 1:
        total += SHALLOW_SHARE * _standardise_each(stretch(_contribute(maps[0], labels, variances=False), cells))
    smooth = _standardise_each(gaussian_filter(total, (0, SMOOTHING * cells, SMOOTHING * cells), mode="nearest"))
    return (1 / (1 + np.exp(-SHARPNESS * smooth))).astype(np.float32)


def pool_means(maps: np.ndarray) -> np.ndarray:
    """Mean of every channel, float32 (images, channels); image by image, because the maps may lie on disk."""
    return np.stack([one.mean(axis=(0, 1), dtype=np.float32) for one in maps])


def fit_linear(features: np.ndarray, labels: np.ndarray) -> "tuple[LogisticRegression, np.ndarray, np.ndarray]":
    """Logistic regression on standardised features, and what was taken off and divided by, (features,) each."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = features.mean(axis=0), features.std(axis=0)
    # A channel that hardly varies between images must not decide.
    spread = np.maximum(spread, 1e-2 * np.median(spread) + 1e-12)
    return LogisticRegression(C=INVERSE_L2, max_iter=500).fit((features - centre) / spread, labels), centre, spread


def _contribute(maps: np.ndarray, labels: np.ndarray, variances: bool) -> np.ndarray:
    """What each cell adds to the logit of its image's label, float32 (images, side, side)."""
    means = pool_means(maps)
    spreads = np.stack([one.var(axis=(0, 1), dtype=np.float32) for one in maps])
    model, _, spread = fit_linear(np.concatenate([means, spreads], axis=1), labels)
    weights = np.concatenate([-model.coef_, model.coef_]) if len(model.coef_) == 1 else model.coef_
    weights = ((weights - weights.mean(axis=0)) / spread).astype(np.float32)
    rows, channels = np.searchsorted(model.classes_, labels), maps.shape[-1]
    result = np.empty(maps.shape[:3], np.float32)
    for index, row in enumerate(rows):
        away = maps[index].astype(np.float32) - means[index]
        result[index] = away @ weights[row, :channels]
        if variances:
            result[index] += np.square(away) @ weights[row, channels:]
    return result


def _standardise_each(maps: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance within each image."""
    spread = maps.std(axis=(1, 2), keepdims=True)
    return (maps - maps.mean(axis=(1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
