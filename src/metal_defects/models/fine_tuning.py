"""Fine-tuning for small defects: the middle of a backbone, trained together with a head that looks at every cell.

Multiple-instance learning (M. Oquab, L. Bottou, I. Laptev & J. Sivic, "Is object localization for free?", CVPR 2015): a
few convolutions say how much each cell of a feature map speaks for each class, the strongest cell of a class votes, and
a pooled description of the whole map votes beside it. Labels are enough to learn from; boxes, where there are some,
teach the cells directly. The blocks in front of those that are trained run once per image, and what they give is kept.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import TrainingParams
from metal_defects.log import logger, progress_bar
from metal_defects.models.networks import open_trunk
from metal_defects.models.specs import Backbone
from metal_defects.models.training import History, MakeCallbacks, check_converged, epoch_progress

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

WIDTH, DEPTH = 48, 2  # channels and number of the 3×3 convolutions
DROPOUT = 0.2
WEIGHT_DECAY = 0.01
# A run has hundreds of steps, not the tens of thousands that Keras' momentum of 0.99 is made for.
MOMENTUM = 0.9
# With fewer the rate falls before anything was learnt.
FEWEST_EPOCHS = 8
TIMED_STEPS = 3
# Of the cells' cross-entropy beside that of the image.
BOX_SHARE = 1.0
EVIDENCE, PROBABILITIES = "evidence", "probabilities"
Targets = dict[str, "tf.Tensor"]


@dataclass(frozen=True)
class MapExamples:
    """Feature maps in front of the blocks that are trained, with what they show.

    Attributes:
        maps: float16 (images, side, side, channels); may lie on disk.
        labels: int (images,).
        cells: share of each cell that boxes of each class cover, (images, grid, grid, classes); NaN for an image
            without boxes; None where there are none at all.
    """

    maps: np.ndarray
    labels: np.ndarray
    cells: np.ndarray | None = None


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier.

    Attributes:
        model: from uint8 pixels to probabilities.
        history: per epoch.
        minutes: that training took.
    """

    model: "keras.Model"
    history: History
    minutes: float


def build_evidence_head(shapes: Mapping[str, tuple[int, int, int]], classes: int) -> "keras.Model":
    """Per-class evidence of every cell, the strongest of which vote beside a description of the whole map.

    Args:
        shapes: height, width and channels of the feature maps by name; the largest gives the grid.
        classes: number of classes.

    Input shape: float32 (batch, height, width, channels), once per map.
    Output shape: float32 (batch, classes), probabilities; the layer "evidence" has (batch, grid, grid, classes).
    """
    import keras
    from keras import layers

    grid = max(height for height, _, _ in shapes.values())
    inputs = [keras.Input(shape, name=name) for name, shape in shapes.items()]
    parts = []
    for name, one in zip(shapes, inputs, strict=True):
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(one)
        x = layers.Conv2D(WIDTH, 1, name=f"{name}_project")(x)
        if (factor := grid // one.shape[1]) > 1:
            x = layers.UpSampling2D(factor, interpolation="bilinear", name=f"{name}_stretch")(x)
        parts.append(x)
    x = layers.Add(name="sum")(parts) if len(parts) > 1 else parts[0]
    x = layers.ReLU(name="sum_relu")(layers.BatchNormalization(momentum=MOMENTUM, name="sum_norm")(x))
    for number in range(DEPTH):
        x = layers.Conv2D(WIDTH, 3, padding="same", use_bias=False, name=f"look_{number}")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"look_{number}_norm")(x)
        x = layers.ReLU(name=f"look_{number}_relu")(x)
    evidence = layers.Conv2D(classes, 1, name=EVIDENCE)(x)
    strongest = layers.GlobalMaxPooling2D(name="strongest")(evidence)
    whole = layers.Concatenate(name="whole")([
        layers.GlobalAveragePooling2D(name="whole_mean")(x), layers.GlobalMaxPooling2D(name="whole_highest")(x)
    ])  # fmt: skip
    votes = layers.Concatenate(name="votes")([strongest, layers.Dropout(DROPOUT, name="dropout")(whole)])
    last = layers.Dense(classes, activation="softmax", name=PROBABILITIES)
    head = keras.Model(inputs, last(votes), name="head")
    kernel, bias = last.get_weights()
    kernel[:classes] = np.eye(classes)
    last.set_weights([kernel, bias])
    return head


def fine_tune(
    backbone: Backbone,
    network: "keras.Model",
    train: MapExamples,
    valid: MapExamples,
    weights: np.ndarray,
    params: TrainingParams,
    make_callbacks: MakeCallbacks,
    folder: Path,
    seed: int,
) -> FineTuned | None:
    """Train the middle blocks of a backbone with an evidence head; None where the time does not suffice.

    How long it will take is measured on a few steps and said before it begins.

    Args:
        backbone: whose row says which blocks.
        network: it, with the pretrained weights; trained in place, normalisation included.
        train, valid: feature maps of the layer in front of them.
        weights: of each class, float32 (classes,).
        params: section `training`.
        make_callbacks: gives the callbacks.
        folder: for checkpoints and logs.
        seed: of the first weights, the order and the turns.
    """
    import keras

    keras.utils.set_random_seed(seed)
    blocks, head = _open_blocks(backbone, network, len(weights))
    learner = _build_learner(blocks, head, params.fine_tune_learning_rate, with_cells=train.cells is not None)
    batches = _make_batches(train, weights, params.from_scratch.batch_size, seed)
    judged = _make_batches(valid, weights, params.from_scratch.batch_size, None)
    seconds = _time_epoch(learner, batches)
    epochs = min(params.fine_tune_epochs, int(60 * params.fine_tune_minutes / seconds))
    if epochs < FEWEST_EPOCHS:
        return None
    logger.info("   fine-tuning: %d epochs, about %.0f minutes", epochs, max(1.0, epochs * seconds / 60))
    start = time.monotonic()
    with progress_bar() as bar:
        chosen = make_callbacks(folder, epochs, params.fine_tune_learning_rate)
        callbacks = [*chosen, epoch_progress(bar, "Fine-tuning", epochs)]
        fitted = learner.fit(batches, validation_data=judged, epochs=epochs, callbacks=callbacks, verbose=0)
    check_converged(fitted.history)
    return FineTuned(_join(backbone, network, head), fitted.history, (time.monotonic() - start) / 60)


def _open_blocks(backbone: Backbone, network: "keras.Model", classes: int) -> "tuple[keras.Model, keras.Model]":
    """The blocks that are trained, and a head on what they give."""
    import keras

    tuned = backbone.tuned_blocks
    assert tuned is not None
    ends = [network.get_layer(name).output for name in tuned.ends]
    blocks = keras.Model(network.get_layer(tuned.start).output, ends, name="blocks")
    for layer in blocks.layers:
        layer.trainable = True
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    shapes = {name: end.shape[1:] for name, end in zip(tuned.ends, ends, strict=True)}
    return blocks, build_evidence_head(shapes, classes)


def _build_learner(blocks: "keras.Model", head: "keras.Model", learning_rate: float, with_cells: bool) -> "keras.Model":
    """From feature maps to probabilities, and to the evidence of every cell where boxes teach; compiled."""
    import keras
    from keras import layers

    outputs = {PROBABILITIES: head.output}
    if with_cells:
        outputs[EVIDENCE] = layers.Activation("sigmoid", name="cells")(head.get_layer(EVIDENCE).output)
    maps = keras.Input(blocks.input_shape[1:], name="maps")
    ends = blocks(maps)
    learner = keras.Model(maps, keras.Model(head.inputs, outputs)(ends if isinstance(ends, list | tuple) else [ends]))
    losses = {PROBABILITIES: keras.losses.CategoricalCrossentropy(), EVIDENCE: keras.losses.BinaryCrossentropy()}
    shares = {PROBABILITIES: 1.0, EVIDENCE: BOX_SHARE}
    learner.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=WEIGHT_DECAY),
        loss={name: losses[name] for name in outputs},
        loss_weights={name: shares[name] for name in outputs},
    )
    return learner


def _join(backbone: Backbone, network: "keras.Model", head: "keras.Model") -> "keras.Model":
    """The classifier from uint8 pixels to probabilities."""
    import keras

    assert backbone.tuned_blocks is not None
    pixels, maps = open_trunk(backbone, network, backbone.tuned_blocks.ends)
    return keras.Model(pixels, head(maps), name=backbone.name)


def _make_batches(examples: MapExamples, weights: np.ndarray, batch_size: int, seed: int | None) -> "tf.data.Dataset":
    """Batches of feature maps with targets and sample weights; shuffled, turned and mirrored where there is a seed."""
    import tensorflow as tf

    labels, cells, classes = tf.constant(examples.labels), examples.cells, len(weights)
    count, sample_weights = len(examples.labels), tf.constant(weights[examples.labels])

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return examples.maps[rows], cells[rows] if cells is not None else np.zeros((len(rows), 1, 1, 1), np.float32)

    def prepare(rows: "tf.Tensor", number: "tf.Tensor") -> "tuple[tf.Tensor, Targets, Targets]":
        maps, wanted = tf.numpy_function(read, (rows,), (tf.float16, tf.float32))
        maps = tf.ensure_shape(tf.cast(maps, tf.float32), (None, *examples.maps.shape[1:]))
        targets = {PROBABILITIES: tf.one_hot(tf.gather(labels, rows), classes)}
        shares = {PROBABILITIES: tf.gather(sample_weights, rows)}
        if cells is not None:
            wanted = tf.ensure_shape(wanted, (None, *cells.shape[1:]))
            known = tf.math.reduce_all(tf.math.is_finite(wanted), axis=(1, 2, 3))
            targets[EVIDENCE] = _turn(tf.where(known[:, None, None, None], wanted, 0.0), number)
            shares[EVIDENCE] = tf.cast(known, tf.float32)[:, None, None]  # Keras' loss of the cells has three axes
        return _turn(maps, number), targets, shares

    rows = tf.data.Dataset.range(count)
    if seed is None:
        return rows.batch(batch_size).map(lambda some: prepare(some, tf.constant(0, tf.int64)))
    shuffled = rows.shuffle(count, seed=seed).batch(batch_size, drop_remainder=count >= batch_size)
    turns = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip(shuffled, turns).map(prepare, num_parallel_calls=2, deterministic=True).prefetch(2)


def _turn(batch: "tf.Tensor", number: "tf.Tensor") -> "tf.Tensor":
    """One of the eight symmetries of the square, the same for the whole batch; none for 0."""
    import tensorflow as tf

    turned = tf.image.rot90(batch, tf.cast(number % 4, tf.int32))
    return tf.where(number // 4 % 2 == 1, tf.reverse(turned, [2]), turned)


def _time_epoch(learner: "keras.Model", batches: "tf.data.Dataset") -> float:
    """Seconds of an epoch, from a few steps that change no weight."""
    rate = float(learner.optimizer.learning_rate)
    learner.optimizer.learning_rate = 0.0
    taken = []
    for maps, targets, shares in batches.take(1 + TIMED_STEPS):
        start = time.monotonic()
        learner.train_on_batch(maps, targets, shares)
        taken.append(time.monotonic() - start)
    learner.optimizer.learning_rate = rate
    return float(np.mean(taken[1:])) * int(batches.cardinality())
