"""Which feature maps the locator reads, of how many images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

STRIDE = 16  # pixels per cell of the grid, as nearly as the layers allow
MOST_BYTES = 1_000_000_000
# More teach the locator little, and the passes and the steps over them are what it costs.
MOST_LEARNED = 1200


def choose_grid(sides: Mapping[str, int], image_size: int) -> int:
    """Cells per side of the grid: the side of the feature map whose cells are nearest to STRIDE pixels.

    Args:
        sides: of the feature maps by name.
        image_size: side of the images in pixels.
    """
    return min(sides.values(), key=lambda side: (abs(np.log(side * STRIDE / image_size)), -side))


def choose_taps(sides: Mapping[str, int], image_size: int) -> tuple[str, ...]:
    """The feature maps that fit on the grid: of at most twice its side, and multiples or parts of it.

    Args:
        sides: of the feature maps by name, shallow to deep.
        image_size: side of the images in pixels.
    """
    grid = choose_grid(sides, image_size)
    return tuple(name for name, side in sides.items() if side in (grid, 2 * grid) or grid % side == 0)


def count_affordable(maps: "Mapping[str, keras.KerasTensor]", image_size: int) -> int:
    """Of how many images the feature maps take MOST_BYTES."""
    taps = choose_taps({name: one.shape[1] for name, one in maps.items()}, image_size)
    return max(1, MOST_BYTES // (2 * sum(int(np.prod(maps[tap].shape[1:])) for tap in taps)))


def choose_learned(
    boxes: Sequence[np.ndarray], maps: "Mapping[str, keras.KerasTensor]", image_size: int, others: int
) -> np.ndarray:
    """Which training images teach the locator: evenly spread, as many as there is room for beside the `others`.

    Args:
        boxes: of the training images.
        maps: feature maps by name.
        image_size: side of the images in pixels.
        others: images whose maps are needed, too.
    """
    room = min(max(count_affordable(maps, image_size) - others, 1), MOST_LEARNED, len(boxes))
    return np.linspace(0, len(boxes) - 1, room).round().astype(int)
