"""Where the model looked, for bundles without a locator: each patch of the image is hidden in turn."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image, ImageFilter

from metal_defects.data.imaging import resize_image
from metal_defects.inference.answer import Prediction
from metal_defects.inference.predictor import Predictor

GRID = 8
_BLUR = 12 / 224  # of the longer side; hides every defect that a patch can hold and keeps its brightness
_CERTAIN = 1e-6  # the answers are rounded to this
_STRONG = 0.5  # log-odds; below this no patch matters on its own


def measure_heat(predictor: Predictor, pixels: np.ndarray, label: str) -> np.ndarray:
    """Occlusion sensitivity (Zeiler and Fergus, 2014).

    Args:
        pixels: uint8 (H, W, 3).
        label: the class whose evidence is measured.

    Returns:
        float32 (8, 8) in [0, 1]: by how much the log-odds of `label` fall when a patch is replaced by its blurred
        self, as a share of the strongest patch. No patch reaches 1 where none matters on its own.
    """
    card = predictor.bundle.card.input
    pictures = (pixels, *_hide_each_patch(pixels))
    # Made square here: a narrow preview may be smaller than what is accepted from outside.
    hidden = [resize_image(picture, card.image_size, card.resize, card.fit) for picture in pictures]
    answers = [answer for answer in predictor.predict_many(hidden) if isinstance(answer, Prediction)]
    shares = np.array([answer.probabilities[label] for answer in answers])
    clipped = np.clip(shares, _CERTAIN, 1 - _CERTAIN)
    odds = np.log(clipped) - np.log1p(-clipped)
    lost = np.maximum(odds[0] - odds[1:], 0).reshape(GRID, GRID)
    return (lost / max(float(lost.max()), _STRONG)).astype(np.float32)


def _hide_each_patch(pixels: np.ndarray) -> Iterator[np.ndarray]:
    blur = ImageFilter.GaussianBlur(_BLUR * max(pixels.shape))
    blurred = np.asarray(Image.fromarray(pixels).filter(blur))
    rows, columns = (np.linspace(0, length, GRID + 1).round().astype(int) for length in pixels.shape[:2])
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            copy = pixels.copy()
            copy[top:bottom, left:right] = blurred[top:bottom, left:right]
            yield copy
