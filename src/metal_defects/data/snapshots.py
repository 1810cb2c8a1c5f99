"""Reads the tf.data snapshots of stage 03 and checks that they are what the training expects."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.errors import DataError
from metal_defects.files import read_json

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "valid", "test")


def element_spec(image_size: int) -> "tuple[tf.TensorSpec, tf.TensorSpec]":
    """One element: an image, uint8 (side, side, 3), and its class index, int32 ()."""
    import tensorflow as tf

    return tf.TensorSpec((image_size, image_size, 3), tf.uint8), tf.TensorSpec((), tf.int32)


def load_snapshot(folder: Path, split: str) -> "tf.data.Dataset":
    """The snapshot of one split, in the order of images.csv.

    Args:
        folder: that of stage 03.
        split: "train", "valid" or "test".

    Raises:
        DataError: the snapshot is missing, unreadable, or its elements have another shape or type.
    """
    import tensorflow as tf

    expected = element_spec(read_json(folder / "class_labels.json")["image_size"])
    path = folder / f"{split}_ds"
    try:
        dataset = tf.data.Dataset.load(str(path))
    except tf.errors.OpError as error:
        raise DataError(f"The snapshot {path} cannot be read; run stage 03 again with --from 03 --force.") from error
    if dataset.element_spec != expected:
        raise DataError(f"The snapshot {path} must hold {expected}. Got {dataset.element_spec} instead.")
    return dataset


def load_labels(folder: Path, split: str) -> np.ndarray:
    """Class indices of one split, int32 (images,), in the order of images.csv."""
    return np.asarray(read_json(folder / "snapshots.json")[split]["labels"], dtype=np.int32)
