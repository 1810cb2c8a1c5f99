"""Stage 03: the preprocessed images as tf.data snapshots, one per split."""

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.data.snapshots import SPLITS, element_spec, load_snapshot
from metal_defects.errors import DataError
from metal_defects.files import read_json, write_json
from metal_defects.log import logger, track
from metal_defects.pipeline.runner import StageContext

if TYPE_CHECKING:
    import tensorflow as tf


def run(ctx: StageContext) -> None:
    """Write train_ds, valid_ds, test_ds, class_labels.json and snapshots.json, then read everything back once."""
    images = ctx.artifacts / "02_data_preprocessing"
    classes = read_json(ctx.artifacts / "01_data_ingestion" / "source.json")["classes"]
    image_size = ctx.settings.params.data_preprocessing.image_size
    with (images / "images.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    write_json(ctx.out / "class_labels.json", {"classes": classes, "image_size": image_size})
    summary = {}
    for split in SPLITS:
        chosen = [row for row in rows if row["split"] == split]
        labels = [classes.index(row["label"]) for row in chosen]
        dataset = _decode_images([str(images / row["path"]) for row in chosen], labels, image_size)
        dataset.save(str(ctx.out / f"{split}_ds"))
        pixels = hashlib.sha256("".join(row["sha256"] for row in chosen).encode()).hexdigest()
        counts = Counter(row["label"] for row in chosen)
        summary[split] = {
            "images": len(chosen),
            "per_class": {name: counts[name] for name in classes},
            "element_spec": [str(spec) for spec in element_spec(image_size)],
            "pixels_sha256": pixels,
            "labels": labels,
        }
    write_json(ctx.out / "snapshots.json", {"data": ctx.data_source(), **summary})
    for split in SPLITS:
        _check_snapshot(ctx.out, split, [row["sha256"] for row in rows if row["split"] == split])
    logger.info("   %s", ", ".join(f"{split} {summary[split]['images']} images" for split in SPLITS))


def _decode_images(paths: list[str], labels: list[int], image_size: int) -> "tf.data.Dataset":
    import tensorflow as tf

    def decode(path: "tf.Tensor", label: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        image = tf.io.decode_png(tf.io.read_file(path), channels=3)
        return tf.ensure_shape(image, (image_size, image_size, 3)), label

    dataset = tf.data.Dataset.from_tensor_slices((tf.constant(paths, tf.string), tf.constant(labels, tf.int32)))
    return dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _check_snapshot(folder: Path, split: str, expected: list[str]) -> None:
    """Read a snapshot back: every image must have the bytes that preprocessing wrote.

    Raises:
        DataError: the snapshot differs.
    """
    elements = load_snapshot(folder, split).as_numpy_iterator()
    tracked = track(elements, f"Checking {split}", len(expected))
    found = [hashlib.sha256(image.tobytes()).hexdigest() for image, _ in tracked]
    if found != expected:
        raise DataError(
            f"The {split} snapshot differs from the preprocessed images; run again with --from 02 --force. "
            f"Got {len(found)} images, {sum(a == b for a, b in zip(found, expected, strict=False))} of them right."
        )
