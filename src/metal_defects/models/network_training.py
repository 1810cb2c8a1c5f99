"""End-to-end training: fits whole networks on the snapshots, with augmentation."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import FromScratchParams
from metal_defects.data.snapshots import load_snapshot
from metal_defects.log import progress_bar
from metal_defects.models.augmentation import augment
from metal_defects.models.training import (
    History,
    MakeCallbacks,
    Training,
    check_converged,
    compile_classifier,
    epoch_progress,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SHUFFLE_BUFFER = 4096


def fit_network(
    model: "keras.Model",
    recipe: FromScratchParams,
    training: Training,
    weights: np.ndarray,
    make_callbacks: MakeCallbacks,
    folder: Path,
    title: str,
) -> History:
    """Train a network on the snapshots, with augmentation.

    Args:
        model: uint8 images to probabilities; trained in place.
        recipe: epochs, batch size, learning rate and label smoothing.
        training: of the run.
        weights: of each class, float32 (classes,).
        make_callbacks: gives the callbacks.
        folder: for checkpoints and logs.
        title: shown with the progress.

    Raises:
        UserError: the loss became NaN.
    """
    train, valid = _training_data(training, weights, recipe.batch_size)
    compile_classifier(model, recipe.learning_rate, recipe.label_smoothing)
    with progress_bar() as bar:
        chosen = make_callbacks(folder, recipe.epochs, recipe.learning_rate)
        callbacks = [*chosen, epoch_progress(bar, title, recipe.epochs)]
        fitted = model.fit(train, validation_data=valid, epochs=recipe.epochs, callbacks=callbacks, verbose=0)
    check_converged(fitted.history)
    return fitted.history


def _training_data(
    training: Training, weights: np.ndarray, batch_size: int
) -> "tuple[tf.data.Dataset, tf.data.Dataset]":
    """Batches of (images, one-hot targets, sample weights) for training, shuffled and augmented, and for validation."""
    import tensorflow as tf

    classes, augmentation, seed = len(weights), training.training.augmentation, training.seed

    def view(image: np.ndarray, number: np.ndarray) -> np.ndarray:
        return augment(image, augmentation, (seed, int(number)))

    def prepare(number: "tf.Tensor", element: "tuple[tf.Tensor, tf.Tensor]") -> "tuple[tf.Tensor, ...]":
        image, label = element
        augmented = tf.ensure_shape(tf.numpy_function(view, (image, number), tf.uint8), image.shape)
        return augmented, tf.one_hot(label, classes), tf.gather(weights, label)

    clean = load_snapshot(training.snapshots, "train").cache()
    count = int(clean.cardinality())
    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    shuffled = clean.shuffle(min(count, SHUFFLE_BUFFER), seed=seed)
    train = tf.data.Dataset.zip(numbers, shuffled).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    valid = load_snapshot(training.snapshots, "valid").map(lambda image, label: (image, tf.one_hot(label, classes)))
    return train.batch(batch_size, drop_remainder=count >= batch_size).prefetch(2), valid.batch(batch_size).cache()
