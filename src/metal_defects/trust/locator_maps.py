"""Feature maps of many images, as the locator needs them: on disk, in half precision, of layers that share a grid."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.log import track
from metal_defects.models.feature_bank import BATCH, fastest_engine
from metal_defects.system import map_ordered

if TYPE_CHECKING:
    import keras

STRIDE = 16  # pixels per cell of the grid, as nearly as the layers allow
MOST_BYTES = 1_000_000_000
MOST_FLOAT16 = 60_000.0
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


def extract_maps(
    pixels: "keras.KerasTensor",
    maps: "Mapping[str, keras.KerasTensor]",
    images: np.ndarray,
    folder: Path,
) -> dict[str, np.ndarray]:
    """Feature maps of images, float16 (images, side, side, channels) by tap, in files that memory is not needed for.

    Args:
        pixels: input of a classifier.
        maps: its feature maps by name, shallow to deep, as `open_model` gives them.
        images: uint8 (images, side, side, 3).
        folder: gets one .npy file per tap.
    """
    import keras
    from keras import layers

    taps = choose_taps({name: one.shape[1] for name, one in maps.items()}, pixels.shape[1])
    shapes = [maps[tap].shape[1:] for tap in taps]
    flat = [layers.Flatten()(maps[tap]) for tap in taps]
    model = keras.Model(pixels, layers.Concatenate()(flat) if len(flat) > 1 else flat[0])
    folder.mkdir(parents=True, exist_ok=True)
    _, run = fastest_engine(model, folder)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    files = [_allocate(folder / f"{tap}.npy", (len(images), *shape)) for tap, shape in zip(taps, shapes, strict=True)]
    start = 0
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    for rows in track(map_ordered(run, batches), "Feature maps", total=len(batches)):
        for file, part in zip(files, np.split(rows, ends[:-1], axis=1), strict=True):
            part = np.clip(part, -MOST_FLOAT16, MOST_FLOAT16)
            file[start : start + len(rows)] = part.reshape(-1, *file.shape[1:])
        start += len(rows)
    return dict(zip(taps, files, strict=True))


def _allocate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float16 array in a file whose space is there: writing to a mapped file on a full disk would kill the process.

    Raises:
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
