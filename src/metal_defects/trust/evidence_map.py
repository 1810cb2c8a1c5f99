"""A heat map straight from the evidence of a network that was taught by labels and looks at cells.

Such a head says for every cell how much it speaks for each class. A defect is where any class is spoken for more than
is usual on this surface; no class has to be named the good one, because a class that speaks everywhere alike stays near
its mean. So the map is tanh(s / scale), with s the sum over the classes of what exceeds one standard deviation,
max(0, (evidence - mean) / deviation - 1), over all cells of the training images; the scale is that of their top cells.
"""

from typing import TYPE_CHECKING

import numpy as np

from metal_defects.models.fine_tuning import EVIDENCE
from metal_defects.trust.locator import Locator
from metal_defects.trust.locator_thresholds import choose_by_contrast

if TYPE_CHECKING:
    import keras

# Deviations of a class from its mean that say nothing.
USUAL = 1.0


def fit_evidence_map(evidence: np.ndarray) -> Locator:
    """What `evidence_layers` needs.

    Args:
        evidence: of the training images, (images, rows, columns, classes).
    """
    values = evidence.astype(np.float32)
    mean, deviation = values.mean(axis=(0, 1, 2)), np.maximum(values.std(axis=(0, 1, 2)), 1e-6)
    excess = np.maximum((values - mean) / deviation - USUAL, 0).sum(axis=3)
    scale = np.maximum(np.median(excess.max(axis=(1, 2))), 1e-6)
    threshold = choose_by_contrast(np.tanh(excess / scale))
    weights = (np.diag(1 / deviation)[None, None], -mean / deviation - USUAL, np.full((1, 1, len(mean), 1), 1 / scale))
    stored = tuple(array.astype(np.float32) for array in weights)
    return Locator("labels", (EVIDENCE,), values.shape[1] // 2, stored, threshold, threshold, len(values))


def evidence_layers(evidence: "keras.KerasTensor", locator: Locator) -> "keras.KerasTensor":
    """Add the map to a graph.

    Args:
        evidence: float32 (batch, rows, columns, classes).
        locator: of `fit_evidence_map`.

    Returns:
        float32 (batch, rows, columns) in [0, 1), rows from the top.
    """
    from keras import layers

    kernel, bias, shares = locator.weights
    exceed = layers.Conv2D(len(bias), 1, activation="relu", name="heat_map_excess")
    add = layers.Conv2D(1, 1, use_bias=False, activation="tanh", name="heat_map_sum")
    total = add(exceed(evidence))
    exceed.set_weights([kernel, bias])
    add.set_weights([shares])
    return layers.Reshape(total.shape[1:3], name="heat_map")(total)
