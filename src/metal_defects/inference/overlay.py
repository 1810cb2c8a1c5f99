"""The picture with what the model saw laid over it: a heat map in colour, and boxes."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from metal_defects.inference.boxes import Box

# Yellow, orange, red: the hotter the darker, so that the order survives a grey print and colour blindness.
_COLOURS = np.array([(255, 222, 89), (250, 130, 40), (178, 16, 38)], np.float32)
_MOST_OPAQUE = 0.75
_OUTLINE, _HALO = (255, 255, 255), (0, 0, 0)
_PIXELS_PER_LINE_WIDTH = 200


def paint_overlay(picture: Image.Image, heat_map: np.ndarray, boxes: Sequence[Box] | None) -> Image.Image:
    """Lay a heat map and boxes over a picture.

    Args:
        picture: of any mode and size.
        heat_map: float (rows, columns) in [0, 1], stretched over the whole picture; 0 leaves it as it is, and the
            colours run over yellow and orange to red.
        boxes: outlined in white on black, which can be told from any surface.

    Returns:
        RGB, of the picture's size.
    """
    level = np.asarray(Image.fromarray(heat_map.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC))
    level = np.clip(level, 0, 1)[..., None]
    base = np.asarray(picture.convert("RGB"), np.float32)
    painted = Image.fromarray(np.rint(base + _MOST_OPAQUE * level * (_colour(level) - base)).astype(np.uint8))
    width = max(1, round(min(picture.size) / _PIXELS_PER_LINE_WIDTH))
    draw = ImageDraw.Draw(painted)
    for box in boxes or ():
        _outline(draw, picture.size, box, width)
    return painted


def _colour(level: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) for levels (H, W, 1), straight between the colours."""
    position = level * (len(_COLOURS) - 1)
    parts = [colour * np.clip(1 - np.abs(position - index), 0, 1) for index, colour in enumerate(_COLOURS)]
    colours: np.ndarray = np.sum(parts, axis=0)
    return colours


def _outline(draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Box, width: int) -> None:
    """A white line of `width` pixels between two black ones, all inside the picture."""
    columns, rows = size
    left, right = (round(share * (columns - 1)) for share in (box.left, box.right))
    top, bottom = (round(share * (rows - 1)) for share in (box.top, box.bottom))
    draw.rectangle((left, top, right, bottom), outline=_HALO, width=3 * width)
    if min(right - left, bottom - top) > 2 * width:
        inner = (left + width, top + width, right - width, bottom - width)
        draw.rectangle(inner, outline=_OUTLINE, width=width)
