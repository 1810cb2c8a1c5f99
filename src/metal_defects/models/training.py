"""Fits heads on feature banks, and whole networks on images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.components.c05_callbacks import build_callbacks, check_converged, epoch_progress
from metal_defects.config import CallbacksParams, FromScratchParams, Params
from metal_defects.data.snapshots import load_snapshot
from metal_defects.log import progress_bar
from metal_defects.models.augmentation import augment
from metal_defects.models.custom_cnn import build_custom_cnn
from metal_defects.models.feature_bank import FeatureBank
from metal_defects.models.networks import assemble, build_feature_model, build_head
from metal_defects.models.specs import BACKBONES

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

History = dict[str, list[float]]
SHUFFLE_BUFFER = 4096


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is built and fitted.

    Attributes:
        taps: names of the backbone's layers whose moments it sees.
        hidden_units: 0 for a linear head.
        dropout: in [0, 1).
        l2: weight decay.
        label_smoothing: in [0, 1).
        learning_rate: of Adam, at the start.
        batch_size: feature vectors per step.
        views: augmented views used of each training image.
        epochs: at most.
    """

    taps: tuple[str, ...]
    hidden_units: int
    dropout: float
    l2: float
    label_smoothing: float
    learning_rate: float
    batch_size: int
    views: int
    epochs: int


def class_weights(labels: np.ndarray, classes: int, policy: str) -> np.ndarray:
    """Weight of each class in the loss, float32 (classes,).

    "balanced" makes all classes count alike: N / (C · N_c), King & Zeng, Political Analysis 9 (2001) 137–163;
    "none" leaves every image its weight of 1.
    """
    if policy == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


def fit_head(
    recipe: HeadRecipe,
    bank: FeatureBank,
    labels: dict[str, np.ndarray],
    weights: np.ndarray,
    callbacks: CallbacksParams,
    folder: Path,
    title: str,
    seed: int,
) -> "tuple[keras.Model, History]":
    """Train a head on a feature bank; the best epoch's weights are kept.

    Args:
        recipe: how.
        bank: features of the splits.
        labels: int32 (images,) of "train" and "valid".
        weights: of each class, float32 (classes,).
        callbacks: section of params.yaml.
        folder: for checkpoints and logs.
        title: shown with the progress.
        seed: of the initial weights, dropout and order.

    Raises:
        UserError: the loss became NaN.
    """
    import keras

    keras.utils.set_random_seed(seed)
    columns = bank.columns(recipe.taps)
    features = bank.training(columns, recipe.views)
    targets = np.tile(labels["train"], 1 + recipe.views)
    classes = len(weights)
    head = build_head(
        features.mean(axis=0),
        features.var(axis=0),
        classes,
        hidden_units=recipe.hidden_units,
        dropout=recipe.dropout,
        l2=recipe.l2,
    )
    steps = -(-len(features) // recipe.batch_size)
    compile_classifier(head, recipe.learning_rate, recipe.label_smoothing, steps_per_execution=steps)
    history = _fit(
        head,
        features,
        keras.utils.to_categorical(targets, classes),
        sample_weight=weights[targets],
        validation_data=(bank.clean("valid", columns), keras.utils.to_categorical(labels["valid"], classes)),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        callbacks=callbacks,
        learning_rate=recipe.learning_rate,
        folder=folder,
        title=title,
    )
    return head, history


def compile_classifier(
    model: "keras.Model", learning_rate: float, label_smoothing: float, steps_per_execution: int = 1
) -> None:
    """Adam, cross-entropy with label smoothing on one-hot targets, and accuracy."""
    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )


def predict_probabilities(head: "keras.Model", features: np.ndarray) -> np.ndarray:
    """Class probabilities of feature vectors, float32 (rows, classes)."""
    return head(features, training=False).numpy()


def predict_images(model: "keras.Model", dataset: "tf.data.Dataset") -> np.ndarray:
    """Class probabilities of a snapshot's images, float32 (images, classes)."""
    return model.predict(dataset.batch(32), verbose=0)


def build_from_scratch(
    name: str, params: Params, classes: int, *, dropout: float, l2: float, **shape: int
) -> "keras.Model":
    """A network whose every weight is trained: the custom CNN, or a backbone under a head.

    Args:
        name: of the model.
        params: all of them.
        classes: number of classes.
        dropout: before the last layer, in [0, 1).
        l2: weight decay.
        shape: `filters` and `depth` of the custom CNN, where they are not its own defaults.

    Input shape: uint8 (batch, side, side, 3).
    Output shape: float32 (batch, classes), probabilities.
    """
    import keras

    keras.utils.set_random_seed(params.seed)
    side = params.data_preprocessing.image_size
    if name == "custom_cnn":
        return build_custom_cnn(side, classes, dropout=dropout, l2=l2, **shape)
    backbone = BACKBONES[name]
    features = build_feature_model(backbone, backbone.build(side), backbone.default_taps, trainable=True)
    columns = features.output_shape[-1]
    head = build_head(
        np.zeros(columns, np.float32),
        np.ones(columns, np.float32),
        classes,
        hidden_units=params.model_builder.hidden_units,
        dropout=dropout,
        l2=l2,
    )
    return assemble(features, head, name)


def wants_fine_tuning(choice: str | bool) -> bool:
    """Whether the second stage runs: "auto" means only where there is a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU")) if choice == "auto" else bool(choice)


def fine_tune(
    model: "keras.Model",
    trunk: "keras.Model",
    snapshots: Path,
    weights: np.ndarray,
    params: Params,
    folder: Path,
    title: str,
) -> History:
    """Second stage: train the last layers of the backbone together with the head, with a small learning rate.

    BatchNormalization layers stay frozen: the statistics of a small data set would undo what they learnt.

    Args:
        model: the assembled classifier; trained in place.
        trunk: its backbone.
        snapshots: folder of stage 03.
        weights: of each class, float32 (classes,).
        params: all of them.
        folder: for checkpoints and logs.
        title: shown with the progress.
    """
    from keras import layers

    training = params.training
    trunk.trainable = True
    frozen = len(trunk.layers) - training.fine_tune_top_layers
    for index, layer in enumerate(trunk.layers):
        layer.trainable = index >= frozen and not isinstance(layer, layers.BatchNormalization)
    recipe = FromScratchParams(
        epochs=training.fine_tune_epochs,
        batch_size=training.from_scratch.batch_size,
        learning_rate=training.fine_tune_learning_rate,
        label_smoothing=training.label_smoothing,
    )
    return fit_network(model, snapshots, weights, params, recipe, folder, title)


def fit_network(
    model: "keras.Model",
    snapshots: Path,
    weights: np.ndarray,
    params: Params,
    recipe: FromScratchParams,
    folder: Path,
    title: str,
) -> History:
    """Train a network on the snapshots, with augmentation.

    Args:
        model: uint8 images to probabilities; trained in place.
        snapshots: folder of stage 03.
        weights: of each class, float32 (classes,).
        params: all of them.
        recipe: epochs, batch size, learning rate and label smoothing.
        folder: for checkpoints and logs.
        title: shown with the progress.

    Raises:
        UserError: the loss became NaN.
    """
    train, valid = _training_data(snapshots, weights, params, recipe.batch_size)
    compile_classifier(model, recipe.learning_rate, recipe.label_smoothing)
    return _fit(
        model,
        train,
        validation_data=valid,
        epochs=recipe.epochs,
        callbacks=params.callbacks,
        learning_rate=recipe.learning_rate,
        folder=folder,
        title=title,
    )


def _training_data(
    snapshots: Path, weights: np.ndarray, params: Params, batch_size: int
) -> "tuple[tf.data.Dataset, tf.data.Dataset]":
    """Batches of (images, one-hot targets, sample weights) for training, shuffled and augmented, and for validation."""
    import tensorflow as tf

    classes, augmentation = len(weights), params.training.augmentation

    def view(image: np.ndarray, number: np.ndarray) -> np.ndarray:
        return augment(image, augmentation, (params.seed, int(number)))

    def prepare(number: "tf.Tensor", element: "tuple[tf.Tensor, tf.Tensor]") -> "tuple[tf.Tensor, ...]":
        image, label = element
        augmented = tf.ensure_shape(tf.numpy_function(view, (image, number), tf.uint8), image.shape)
        return augmented, tf.one_hot(label, classes), tf.gather(weights, label)

    clean = load_snapshot(snapshots, "train").cache()
    count = int(clean.cardinality())
    numbers = tf.data.Dataset.random(seed=params.seed, rerandomize_each_iteration=True)
    shuffled = clean.shuffle(min(count, SHUFFLE_BUFFER), seed=params.seed)
    train = tf.data.Dataset.zip(numbers, shuffled).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    valid = load_snapshot(snapshots, "valid").map(lambda image, label: (image, tf.one_hot(label, classes)))
    return train.batch(batch_size, drop_remainder=count >= batch_size).prefetch(2), valid.batch(batch_size)


def _fit(
    model: "keras.Model",
    *data: Any,
    epochs: int,
    callbacks: CallbacksParams,
    learning_rate: float,
    folder: Path,
    title: str,
    **options: Any,
) -> History:
    """Keras' fit with the callbacks of component 05 and a progress bar."""
    with progress_bar() as bar:
        chosen = [*build_callbacks(callbacks, folder, epochs, learning_rate), epoch_progress(bar, title, epochs)]
        history = model.fit(*data, epochs=epochs, callbacks=chosen, verbose=0, **options).history
    check_converged(history)
    return history
