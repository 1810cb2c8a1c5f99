"""Features of every image, computed once: one forward pass per view, kept on disk and keyed by content."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import AugmentationParams, Pooling, ViewKind
from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import load_snapshot, load_summary
from metal_defects.files import read_json, sha256_json, write_json
from metal_defects.log import logger, progress_bar
from metal_defects.models.augmentation import augment, make_mild
from metal_defects.models.networks import build_feature_model, digest_weights, tap_slices
from metal_defects.models.pooling import POOLINGS, STATISTICS
from metal_defects.models.specs import Backbone
from metal_defects.system import map_ordered

if TYPE_CHECKING:
    import keras

BATCH = 8  # small enough for the feature maps to stay in the cache of a core
PARITY_TOLERANCE = 1e-3
# Making an ONNX graph takes 3 to 19 s; it then saves at most a few milliseconds per image.
WORTH_EXPORTING = 1000
RICHEST = POOLINGS[-1]
Engine = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FeatureBank:
    """Pooled features of one backbone.

    Attributes:
        features: per split, float32 (views, images, columns); view 0 is the clean image, only "train" has more.
        slices: the columns of each tap, all statistics of its channels.
        views: kinds of the augmented views, in their order.
        meta: engine, milliseconds per image, and what the key was made of.
    """

    features: dict[str, np.ndarray]
    slices: dict[str, slice]
    views: tuple[ViewKind, ...]
    meta: dict

    def columns(self, taps: Sequence[str], pooling: Pooling = "moments") -> np.ndarray:
        """Indices of the columns of `taps`, in the order of `taps`."""
        kept, stored = STATISTICS[pooling], STATISTICS[RICHEST]
        slices = [self.slices[tap] for tap in taps]
        return np.concatenate([
            np.arange(part.start, part.start + (part.stop - part.start) * kept // stored) for part in slices
        ])  # fmt: skip

    def view_numbers(self, choice: str) -> list[int]:
        """The clean image, 0, and the augmented views of a choice: "none", "mild", "damage" or "all"."""
        return [0, *(number for number, kind in enumerate(self.views, 1) if choice in (kind, "all"))]

    def clean(self, split: str, columns: np.ndarray) -> np.ndarray:
        """Features of the unchanged images, float32 (images, len(columns))."""
        return self.features[split][0][:, columns]

    def select(self, split: str, columns: np.ndarray, views: str) -> np.ndarray:
        """Features of the unchanged images and of their views of a choice, float32 (1 + views, images, columns)."""
        return np.stack([self.features[split][number][:, columns] for number in self.view_numbers(views)])


def choose_views(backbone: Backbone, views: Sequence[ViewKind], max_gmacs: float) -> tuple[ViewKind, ...]:
    """Augmented views that a backbone gets: those asked for, or the first of them where a pass is costly."""
    return tuple(views[: int(max_gmacs / backbone.gmacs)])


def load_or_extract(
    store: Path,
    snapshots: Path,
    backbone: Backbone,
    network: "keras.Model",
    views: Sequence[ViewKind],
    augmentation: AugmentationParams,
    seed: int,
) -> FeatureBank:
    """The bank of a backbone over all splits, from `store` if the same was computed before.

    Args:
        store: folder of banks.
        snapshots: folder of stage 03.
        backbone: row of the table.
        network: its built network; its weights are part of the key.
        views: kinds of the augmented passes over the training images.
        augmentation: what a view may change; a mild one less of it.
        seed: of the views.
    """
    summary = load_summary(snapshots)
    identity = {
        "backbone": backbone.name,
        "taps": list(backbone.taps),
        "pooling": RICHEST,
        "scaling": [list(part) for part in backbone.scaling],
        "weights": digest_weights(network),
        "images": {split: getattr(summary, split).pixels_sha256 for split in SPLITS},
        "views": list(views),
        "augmentation": augmentation.model_dump() if views else None,
        "seed": seed if views else None,
    }
    folder = store / f"{backbone.name}-{sha256_json(identity)[:16]}"
    if not (folder / "bank.json").exists():
        _extract(folder, snapshots, backbone, network, augmentation, identity)
    meta = read_json(folder / "bank.json")
    features: dict[str, np.ndarray] = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    slices = {tap: slice(*ends) for tap, ends in meta["slices"].items()}
    return FeatureBank(features, slices, tuple(views), meta)


def _extract(
    folder: Path,
    snapshots: Path,
    backbone: Backbone,
    network: "keras.Model",
    augmentation: AugmentationParams,
    identity: dict,
) -> None:
    """Compute a bank beside its place and move it there when it is complete."""
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = build_feature_model(backbone, network, backbone.taps, RICHEST)
    summary = load_summary(snapshots)
    kinds = {"damage": augmentation, "mild": make_mild(augmentation)}
    views = [None, *(kinds[kind] for kind in identity["views"])]
    counts = {split: getattr(summary, split).images for split in SPLITS}
    passes = [(split, number) for split in SPLITS for number in range(len(views) if split == "train" else 1)]
    total = sum(counts[split] for split, _ in passes)
    engine, run = fastest_engine(model, partial) if total >= WORTH_EXPORTING else ("TensorFlow", _compile(model))
    features: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    clean_seconds = 0.0
    with progress_bar() as bar:
        task = bar.add_task(f"{backbone.title} features", total=total, note=engine)
        for split, view in passes:
            start, parts = time.perf_counter(), []
            for part in _run_pass(run, snapshots, split, view, views[view], identity["seed"]):
                parts.append(part)
                bar.advance(task, len(part))
            features[split].append(np.concatenate(parts))
            clean_seconds += 0 if view else time.perf_counter() - start
    for split in SPLITS:
        np.save(partial / f"{split}.npy", np.stack(features[split]).astype(np.float32))
    slices = tap_slices(model, backbone, backbone.taps, RICHEST)
    meta = {
        "engine": engine,
        "milliseconds_per_image": round(1000 * clean_seconds / sum(counts.values()), 2),
        "slices": {tap: [part.start, part.stop] for tap, part in slices.items()},
        "identity": identity,
    }
    write_json(partial / "bank.json", meta)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def fastest_engine(model: "keras.Model", scratch: Path) -> tuple[str, Engine]:
    """A function from uint8 images to float32 features, and the name of what runs it.

    A GPU runs TensorFlow; a CPU runs ONNX Runtime, after a check that it computes the same.
    """
    import tensorflow as tf

    run_tensorflow = _compile(model)
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow on GPU", run_tensorflow
    import onnxruntime

    probe = np.random.default_rng(0).integers(0, 256, (4, *model.input_shape[1:]), dtype=np.uint8)
    expected = model(probe, training=False).numpy()
    path = scratch / "features.onnx"
    model.export(str(path), format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one batch per core scales better than one batch on all cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.unlink()
    name = session.get_inputs()[0].name

    def run_onnx(batch: np.ndarray) -> np.ndarray:
        return session.run(None, {name: batch})[0]

    error = np.abs(run_onnx(probe) - expected).max() / max(np.abs(expected).max(), 1e-12)
    if error > PARITY_TOLERANCE:
        logger.warning("   ONNX Runtime differs from TensorFlow by %.1e of the range: using TensorFlow", error)
        return "TensorFlow", run_tensorflow
    return "ONNX Runtime", run_onnx


def _compile(model: "keras.Model") -> Engine:
    """The model as one TensorFlow graph."""
    import tensorflow as tf

    compiled = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    return lambda batch: compiled(tf.constant(batch)).numpy()


def _run_pass(
    run: Engine, snapshots: Path, split: str, view: int, augmentation: AugmentationParams | None, seed: int | None
) -> Iterator[np.ndarray]:
    """Features of one view of a split, in order and in batches; every core works on its own batch.

    Args:
        run: computes them.
        snapshots: folder of stage 03.
        split: name.
        view: its number.
        augmentation: what it may change; None for the clean images.
        seed: of all views.
    """

    def compute(batch: tuple[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        number, (images, _) = batch
        if augmentation is not None and seed is not None:  # views always have one
            seeds = ((seed, view, number * BATCH + index) for index in range(len(images)))
            images = np.stack([augment(image, augmentation, one) for image, one in zip(images, seeds, strict=True)])
        return run(images)

    batches = enumerate(load_snapshot(snapshots, split).batch(BATCH).as_numpy_iterator())
    return map_ordered(compute, batches)
