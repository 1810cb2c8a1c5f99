"""Feature maps of many images: on disk, in half precision, because memory would not hold them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.log import track
from metal_defects.models.feature_bank import BATCH, fastest_engine
from metal_defects.system import map_ordered

if TYPE_CHECKING:
    import keras

MOST_FLOAT16 = 60_000.0


def extract_maps(
    pixels: "keras.KerasTensor",
    maps: "Mapping[str, keras.KerasTensor]",
    images: np.ndarray,
    folder: Path,
) -> dict[str, np.ndarray]:
    """Feature maps of images, float16 (images, side, side, channels) by name, in files that memory is not needed for.

    Args:
        pixels: input of a network.
        maps: its feature maps by name.
        images: uint8 (images, side, side, 3).
        folder: gets one .npy file per tap.
    """
    import keras
    from keras import layers

    shapes = [one.shape[1:] for one in maps.values()]
    flat = [layers.Flatten()(one) for one in maps.values()]
    model = keras.Model(pixels, layers.Concatenate()(flat) if len(flat) > 1 else flat[0])
    folder.mkdir(parents=True, exist_ok=True)
    _, run = fastest_engine(model, folder)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    files = [_allocate(folder / f"{tap}.npy", (len(images), *shape)) for tap, shape in zip(maps, shapes, strict=True)]
    start = 0
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    for rows in track(map_ordered(run, batches), "Feature maps", total=len(batches)):
        for file, part in zip(files, np.split(rows, ends[:-1], axis=1), strict=True):
            part = np.clip(part, -MOST_FLOAT16, MOST_FLOAT16)
            file[start : start + len(rows)] = part.reshape(-1, *file.shape[1:])
        start += len(rows)
    return dict(zip(maps, files, strict=True))


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
