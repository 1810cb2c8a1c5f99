"""Transfer learning: fits heads on pooled features, and what every fit shares."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.progress import Progress

from metal_defects.config import USUAL_L2, ModelBuilderParams, Pooling, TrainingParams, Views
from metal_defects.errors import UserError
from metal_defects.log import progress_bar
from metal_defects.models.linear_head import PENALTIES, TRIAL_TOLERANCE, LinearHead, solve_path
from metal_defects.models.networks import build_head
from metal_defects.records import Record
from metal_defects.system import stop_if_interrupted

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

History = dict[str, list[float]]
# From a folder for logs, the number of epochs and the learning rate at the start.
MakeCallbacks = Callable[[Path, int, float], "list[keras.callbacks.Callback]"]
SCORES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Training:
    """What every fit of a run has in common.

    Attributes:
        seed: of initial weights, order, dropout and views.
        image_size: side of the images in pixels.
        builder: section `model_builder`.
        training: section `training`.
        snapshots: folder of stage 03.
        banks: folder of feature banks.
    """

    seed: int
    image_size: int
    builder: ModelBuilderParams
    training: TrainingParams
    snapshots: Path
    banks: Path


class HeadRecipe(Record):
    """How a head is built and fitted.

    Attributes:
        taps: names of the backbone's layers whose feature maps are pooled.
        pooling: which statistics of them it sees.
        views: which augmented views of the training images it learns from besides the clean ones.
        hidden_units: 0 for a linear head, which is solved; the last four are of a head that is trained.
        l2: penalty on the kernels; "auto" where the images shall say.
        label_smoothing: in [0, 1).
        dropout: in [0, 1).
        learning_rate: of Adam, at the start.
        batch_size: feature vectors per step.
        epochs: at most.
    """

    taps: tuple[str, ...]
    pooling: Pooling
    views: Views
    hidden_units: int
    l2: float | Literal["auto"]
    label_smoothing: float
    dropout: float
    learning_rate: float
    batch_size: int
    epochs: int

    @property
    def trained_l2(self) -> float:
        """Penalty of a head that is trained."""
        return USUAL_L2 if self.l2 == "auto" else self.l2


@dataclass(frozen=True)
class TrainedHead:
    """A head that Keras trained.

    Attributes:
        l2: penalty on its kernels.
        model: from feature vectors to probabilities.
        history: per epoch.
    """

    l2: float
    model: "keras.Model"
    history: History

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logarithms of the probabilities of feature vectors, float32 (rows, classes)."""
        return np.log(np.maximum(self.model(features, training=False).numpy(), 1e-12))

    def to_keras(self) -> "keras.Model":
        """From feature vectors to probabilities."""
        return self.model


@dataclass(frozen=True)
class Examples:
    """Pooled features with the classes that they show.

    Attributes:
        features: float32 (1 + views, images, columns), view 0 clean.
        labels: int (images,).
    """

    features: np.ndarray
    labels: np.ndarray

    @property
    def clean(self) -> np.ndarray:
        """Features of the unchanged images, (images, columns)."""
        return self.features[0]

    @property
    def rows(self) -> np.ndarray:
        """Features of all views, one after the other, ((1 + views) * images, columns)."""
        return self.features.reshape(-1, self.features.shape[-1])

    @property
    def row_labels(self) -> np.ndarray:
        """Classes of `rows`."""
        return np.tile(self.labels, len(self.features))

    def take(self, images: np.ndarray) -> "Examples":
        """Some of the images, by position."""
        return Examples(self.features[:, images], self.labels[images])


def class_weights(labels: np.ndarray, classes: int, policy: str) -> np.ndarray:
    """Weight of each class in the loss, float32 (classes,).

    "balanced" makes all classes count alike: N / (C · N_c), King & Zeng, Political Analysis 9 (2001) 137–163;
    "none" leaves every image its weight of 1.
    """
    if policy == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


def solve_heads(
    train: Examples,
    weights: np.ndarray,
    label_smoothing: float = 0.0,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = TRIAL_TOLERANCE,
) -> Iterator[LinearHead]:
    """The optimal linear head of each penalty, the strongest first.

    Args:
        train: all views of an image count alike.
        weights: of each class, (classes,).
        label_smoothing: share of each label that is spread over all classes.
        penalties: `l2`, falling.
        tolerance: of the solver.
    """
    labels, classes = train.row_labels, len(weights)
    targets = np.eye(classes)[labels] * (1 - label_smoothing) + label_smoothing / classes
    return solve_path(train.rows, targets, weights[labels], penalties, tolerance)


def train_head(
    recipe: HeadRecipe,
    train: Examples,
    valid: Examples,
    weights: np.ndarray,
    make_callbacks: MakeCallbacks,
    folder: Path,
    title: str,
    seed: int,
) -> "tuple[keras.Model, History]":
    """Train a head with a hidden layer; the best epoch's weights are kept.

    Keras' `fit` spends most of its time around a head this small, not in it, so the epoch is one compiled loop here.

    Args:
        recipe: how.
        train, valid: what it learns from, and what tells the best epoch.
        weights: of each class, float32 (classes,).
        make_callbacks: gives the callbacks.
        folder: for checkpoints and logs.
        title: shown with the progress.
        seed: of the initial weights, dropout and order.

    Raises:
        UserError: the loss became NaN.
    """
    import keras

    keras.utils.set_random_seed(seed)
    features, labels = train.rows, train.row_labels
    head = build_head(
        features.mean(axis=0),
        features.var(axis=0),
        len(weights),
        hidden_units=recipe.hidden_units,
        dropout=recipe.dropout,
        l2=recipe.trained_l2,
    )
    compile_classifier(head, recipe.learning_rate, recipe.label_smoothing)
    inputs = (features, keras.utils.to_categorical(labels, len(weights)), weights[labels])
    judged = (valid.clean, keras.utils.to_categorical(valid.labels, len(weights)))
    run_epoch = _compile_epoch(head, inputs, judged, recipe.batch_size)
    random = np.random.default_rng(seed)
    with progress_bar() as bar:
        chosen = make_callbacks(folder, recipe.epochs, recipe.learning_rate)
        shown = epoch_progress(bar, title, recipe.epochs)
        callbacks = keras.callbacks.CallbackList([*chosen, shown], add_history=True, model=head, epochs=recipe.epochs)
        callbacks.on_train_begin()
        head.stop_training = False
        for epoch in range(recipe.epochs):
            callbacks.on_epoch_begin(epoch)
            scores = run_epoch(random.permutation(len(features)).astype(np.int32))
            callbacks.on_epoch_end(epoch, dict(zip(SCORES, map(float, scores), strict=True)))
            if head.stop_training or not np.isfinite(scores[0]):
                break
        callbacks.on_train_end()
    check_converged(head.history.history)
    return head, head.history.history


def _compile_epoch(
    head: "keras.Model", train: tuple[np.ndarray, ...], valid: tuple[np.ndarray, ...], batch_size: int
) -> "Callable[[np.ndarray], tuple[tf.Tensor, ...]]":
    """One epoch of a compiled head as one graph: from the order of the training rows, int32 (rows,), to SCORES.

    Args:
        head: compiled; trained in place.
        train: features (rows, columns), one-hot targets (rows, classes) and weights (rows,).
        valid: features and one-hot targets.
        batch_size: rows per step; the last step takes what is left.
    """
    import tensorflow as tf

    inputs, targets, weights = map(tf.constant, train)
    valid_inputs, valid_targets = map(tf.constant, valid)
    variables = head.trainable_variables
    head.optimizer.build(variables)

    def count_hits(targets: "tf.Tensor", probabilities: "tf.Tensor") -> "tf.Tensor":
        return tf.math.count_nonzero(tf.argmax(targets, 1) == tf.argmax(probabilities, 1), dtype=tf.float32)

    @tf.function(reduce_retracing=True)
    def run_epoch(order: "tf.Tensor") -> "tuple[tf.Tensor, ...]":
        count = tf.shape(order)[0]
        loss_sum, hits = tf.constant(0.0), tf.constant(0.0)
        for start in tf.range(0, count, batch_size):
            rows = order[start : start + batch_size]
            wanted = tf.gather(targets, rows)
            with tf.GradientTape() as tape:
                found = head(tf.gather(inputs, rows), training=True)
                loss = head.loss(wanted, found, sample_weight=tf.gather(weights, rows)) + tf.add_n(head.losses)
            head.optimizer.apply(tape.gradient(loss, variables), variables)
            loss_sum += loss * tf.cast(tf.shape(rows)[0], tf.float32)
            hits += count_hits(wanted, found)
        total = tf.cast(count, tf.float32)
        found = head(valid_inputs, training=False)
        valid_loss = head.loss(valid_targets, found) + tf.add_n(head.losses)
        return loss_sum / total, hits / total, valid_loss, count_hits(valid_targets, found) / len(valid_targets)

    return run_epoch


def compile_classifier(model: "keras.Model", learning_rate: float, label_smoothing: float) -> None:
    """Adam, cross-entropy with label smoothing on one-hot targets, and accuracy."""
    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing),
        metrics=["accuracy"],
    )


def predict_images(model: "keras.Model", dataset: "tf.data.Dataset") -> np.ndarray:
    """Class probabilities of a snapshot's images, float32 (images, classes)."""
    return model.predict(dataset.batch(32), verbose=0)


def epoch_progress(bar: Progress, description: str, epochs: int) -> "keras.callbacks.Callback":
    """A callback that shows epochs, the latest scores and the time left on a Rich progress display."""
    from keras.callbacks import Callback

    class EpochProgress(Callback):
        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            self.task = bar.add_task(description, total=epochs, note="")

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            stop_if_interrupted()
            note = f"val_loss {logs['val_loss']:.3f}" if logs and "val_loss" in logs else ""
            bar.update(self.task, advance=1, note=note)

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:
            bar.remove_task(self.task)

    return EpochProgress()


def check_converged(history: History) -> None:
    """Refuse a training run that ended in NaN.

    Raises:
        UserError: the last loss is not a finite number.
    """
    losses = history["loss"]
    if not losses or not math.isfinite(losses[-1]):
        raise UserError(f"Training diverged. Lower the learning rate. Got losses {losses[-3:]}.")
