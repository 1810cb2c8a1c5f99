"""Feature maps of many images: on disk, in half precision, because memory would not hold them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metal_defects.log import track
from metal_defects.models.feature_bank import BATCH, fastest_engine
from metal_defects.system import map_ordered

if TYPE_CHECKING:
    import keras

MOST_FLOAT16 = 60_000.0


class Images(Protocol):
    """Many images, made a batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> np.ndarray:
        """Some of them, uint8 (images, side, side, 3)."""


def extract_maps(
    pixels: "keras.KerasTensor",
    maps: "Mapping[str, keras.KerasTensor]",
    images: "np.ndarray | Images",
    folder: Path,
) -> dict[str, np.ndarray]:
    """Feature maps of images, float16 (images, side, side, channels) by name, in files that memory is not needed for.

    Args:
        pixels: input of a network.
        maps: its feature maps by name.
        images: uint8 (images, side, side, 3), or what makes them as they are asked for.
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
    firsts = range(0, len(images), BATCH)
    computed = map_ordered(lambda first: run(images[first : first + BATCH]), firsts)
    for rows in track(computed, "Feature maps", total=len(firsts)):
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
