"""Reads the tf.data snapshots of stage 03 and checks that they are what the training expects."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import FitMode
from metal_defects.data.manifest import DataCard
from metal_defects.errors import DataError
from metal_defects.records import Record, read_record

if TYPE_CHECKING:
    import tensorflow as tf

LABELS_FILE, SUMMARY_FILE = "class_labels.json", "snapshots.json"


class ClassLabels(Record):
    """class_labels.json: the classes in the order of their indices, and what the images became.

    Attributes:
        image_size: side of the images in pixels.
        fit: how images of another shape were made square.
    """

    classes: tuple[str, ...]
    image_size: int
    fit: FitMode = "stretch"


class SplitSummary(Record):
    """What one snapshot holds.

    Attributes:
        element_spec: type and shape of an element's parts.
        pixels_sha256: over the digests of the images, in order.
        labels: class index of each image, in order.
    """

    images: int
    per_class: dict[str, int]
    element_spec: tuple[str, ...]
    pixels_sha256: str
    labels: tuple[int, ...]


class Snapshots(Record):
    """snapshots.json."""

    data: DataCard
    train: SplitSummary
    valid: SplitSummary
    test: SplitSummary


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

    expected = element_spec(load_class_labels(folder).image_size)
    path = folder / f"{split}_ds"
    try:
        dataset = tf.data.Dataset.load(str(path))
    except tf.errors.OpError as error:
        raise DataError(f"The snapshot {path} cannot be read; run stage 03 again with --from 03 --force.") from error
    if dataset.element_spec != expected:
        raise DataError(f"The snapshot {path} must hold {expected}. Got {dataset.element_spec} instead.")
    return dataset


def load_class_labels(folder: Path) -> ClassLabels:
    """The classes, from the folder of stage 03."""
    return read_record(folder / LABELS_FILE, ClassLabels)


def load_summary(folder: Path) -> Snapshots:
    """What the snapshots hold, from the folder of stage 03."""
    return read_record(folder / SUMMARY_FILE, Snapshots)


def load_labels(folder: Path, split: str) -> np.ndarray:
    """Class indices of one split, int32 (images,), in the order of images.csv."""
    return np.asarray(getattr(load_summary(folder), split).labels, dtype=np.int32)


def read_images(snapshots: Path, *splits: str) -> np.ndarray:
    """Images of some splits, uint8 (images, side, side, 3)."""
    return np.concatenate(
        [batch for split in splits for batch, _ in load_snapshot(snapshots, split).batch(64).as_numpy_iterator()]
    )
