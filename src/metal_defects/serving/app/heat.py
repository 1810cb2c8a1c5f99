"""Where the model looked: each patch of the image is hidden in turn, and the loss of evidence is measured."""

from itertools import pairwise

import numpy as np
from PIL import Image, ImageFilter

from metal_defects.serving.predictor import Predictor

GRID = 8
_BLUR = 12  # pixels; hides every defect that a patch can hold and keeps its brightness
_CERTAIN = 1e-6  # the answers are rounded to this
SPREAD = 0.5  # log-odds; below this no patch matters on its own
_COLOURS = np.array([(255, 214, 102), (247, 129, 42), (178, 24, 43)], np.float32)


def measure_heat(predictor: Predictor, pixels: np.ndarray, label: str) -> np.ndarray:
    """Occlusion sensitivity (Zeiler and Fergus, 2014), in one batched run.

    Args:
        pixels: uint8 (side, side, 3), as the graph takes them.
        label: the class whose evidence is measured.

    Returns:
        float32 (8, 8): by how much the log-odds of `label` fall when a patch is replaced by its blurred self;
        0 where hiding the patch makes the label more certain.
    """
    hidden = [pixels, *_hide_each_patch(pixels)]
    answers = list(predictor.predict_many(hidden, batch_size=GRID * GRID // 2))
    shares = np.array([answer.probabilities[label] for answer in answers])
    clipped = np.clip(shares, _CERTAIN, 1 - _CERTAIN)
    odds = np.log(clipped) - np.log1p(-clipped)
    return np.maximum(odds[0] - odds[1:], 0).reshape(GRID, GRID).astype(np.float32)


def paint_heat(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """Lay the heat over a picture of any size: clear where there is none, then yellow, orange, red.

    Args:
        heat: float (rows, columns), from 0 up; the hottest patch gets the full colour, unless it is below `SPREAD`.
    """
    scaled = heat / max(float(heat.max()), SPREAD)
    smooth = Image.fromarray(scaled).resize(picture.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1)[..., None]
    steps = len(_COLOURS) - 1
    position = level * steps
    colour = sum(_COLOURS[index] * np.clip(1 - abs(position - index), 0, 1) for index in range(steps + 1))
    grey = np.asarray(picture.convert("RGB"), np.float32)
    opacity = 0.7 * level**0.7
    return Image.fromarray((grey * (1 - opacity) + colour * opacity).astype(np.uint8))


def _hide_each_patch(pixels: np.ndarray) -> list[np.ndarray]:
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR)))
    edges = np.linspace(0, len(pixels), GRID + 1).round().astype(int)
    copies = []
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            copy = pixels.copy()
            copy[top:bottom, left:right] = blurred[top:bottom, left:right]
            copies.append(copy)
    return copies
