"""A backbone of a few weights and a handful of snapshots: what the tests of the model side share."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.data.manifest import DataCard
from metal_defects.data.snapshots import LABELS_FILE, SUMMARY_FILE, ClassLabels, Snapshots, SplitSummary
from metal_defects.models.specs import Backbone
from metal_defects.models.weights import WeightsSource
from metal_defects.records import write_record

if TYPE_CHECKING:
    import keras

SIDE = 32
CLASSES = ("Left", "Right", "Even")
COUNTS = {"train": 9, "valid": 6, "test": 3}


def build_toy(image_size: int) -> "keras.Model":
    import keras
    from keras import layers

    pixels = keras.Input((image_size, image_size, 3))
    x = layers.ZeroPadding2D(1, name="first_pad")(pixels)
    x = layers.Conv2D(4, 3, name="first")(x)
    x = layers.BatchNormalization(name="first_norm")(x)
    x = layers.ReLU(name="shallow")(x)
    x = layers.Conv2D(6, 3, strides=2, name="second")(x)
    x = layers.ReLU(name="deep")(x)
    return keras.Model(pixels, x, name="toy_net")


TOY = Backbone(
    name="toy",
    title="Toy",
    weights=WeightsSource("toy.weights.h5", None, None, None),
    build=build_toy,
    load=lambda model, path: model.load_weights(path),
    scaling=((1 / 127.5, 1 / 100, 1 / 64), (-1.0, -0.5, -0.25)),
    taps=("shallow", "deep"),
    default_taps=("deep",),
    gmacs=0.5,
)
TOY_BGR = replace(TOY, bgr=True)


def draw_image(label: int, seed: int) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): noise, darker where the class says."""
    image = np.random.default_rng(seed).integers(100, 156, (SIDE, SIDE, 3))
    image[:, : SIDE // 2] -= 90 * (label == 0)
    image[:, SIDE // 2 :] += 90 * (label == 1)
    return image.astype(np.uint8)


def draw_split(split: str, first_seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, SIDE, SIDE, 3), classes in turn, and int32 labels (n,)."""
    labels = np.arange(COUNTS[split], dtype=np.int32) % len(CLASSES)
    seed = first_seed + 100 * list(COUNTS).index(split)
    return np.stack([draw_image(label, seed + index) for index, label in enumerate(labels)]), labels


def write_snapshots(folder: Path, first_seed: int = 0) -> Path:
    """What stage 03 writes."""
    import tensorflow as tf

    summary = {}
    for split in COUNTS:
        images, labels = draw_split(split, first_seed)
        tf.data.Dataset.from_tensor_slices((images, labels)).save(str(folder / f"{split}_ds"))
        summary[split] = SplitSummary(
            images=len(images),
            per_class={},
            element_spec=(),
            pixels_sha256=hashlib.sha256(images.tobytes()).hexdigest(),
            labels=tuple(labels.tolist()),
        )
    write_record(folder / LABELS_FILE, ClassLabels(classes=CLASSES, image_size=SIDE))
    write_record(folder / SUMMARY_FILE, Snapshots(data=DataCard(kind="path", notice=None), **summary))
    return folder
