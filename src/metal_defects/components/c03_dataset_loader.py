"""Stage 03: the preprocessed images as tf.data snapshots, one per split."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.artifacts import GEOMETRY, IMAGES, PREPROCESSED, SOURCE
from metal_defects.data.geometry import Geometry
from metal_defects.data.manifest import SPLITS, ImageRow, SourceCard
from metal_defects.data.snapshots import (
    LABELS_FILE,
    SUMMARY_FILE,
    ClassLabels,
    Snapshots,
    SplitSummary,
    element_spec,
    load_snapshot,
)
from metal_defects.errors import DataError
from metal_defects.log import logger, track
from metal_defects.pipeline.context import StageContext
from metal_defects.records import write_record

if TYPE_CHECKING:
    import tensorflow as tf


def run(ctx: StageContext) -> None:
    """Write train_ds, valid_ds, test_ds, class_labels.json and snapshots.json, then read everything back once."""
    source, folder = ctx.read(SOURCE, SourceCard), ctx.path(PREPROCESSED)
    geometry = ctx.read(GEOMETRY, Geometry)
    labels = ClassLabels(classes=source.classes, image_size=geometry.image_size, fit=geometry.fit)
    rows = ctx.read_rows(IMAGES, ImageRow)
    write_record(ctx.out / LABELS_FILE, labels)
    parts = {split: [row for row in rows if row.split == split] for split in SPLITS}
    summaries = {split: _save_snapshot(ctx.out / f"{split}_ds", folder, part, labels) for split, part in parts.items()}
    write_record(ctx.out / SUMMARY_FILE, Snapshots(data=source.card, **summaries))
    for split, part in parts.items():
        _check_snapshot(ctx.out, split, [row.sha256 for row in part])
    logger.info("   %s", ", ".join(f"{split} {len(part)} images" for split, part in parts.items()))


def _save_snapshot(target: Path, folder: Path, rows: Sequence[ImageRow], labels: ClassLabels) -> SplitSummary:
    """Write one split; the images are below `folder`."""
    indices = [labels.classes.index(row.label) for row in rows]
    dataset = _decode_images([str(folder / row.path) for row in rows], indices, labels.image_size)
    dataset.save(str(target))
    counts = Counter(row.label for row in rows)
    return SplitSummary(
        images=len(rows),
        per_class={name: counts[name] for name in labels.classes},
        element_spec=tuple(str(spec) for spec in element_spec(labels.image_size)),
        pixels_sha256=hashlib.sha256("".join(row.sha256 for row in rows).encode()).hexdigest(),
        labels=tuple(indices),
    )


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
