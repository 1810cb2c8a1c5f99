"""Fine-tuning for small defects: the middle of a backbone, trained together with a head that looks at every cell.

Multiple-instance learning (M. Oquab, L. Bottou, I. Laptev & J. Sivic, "Is object localization for free?", CVPR 2015): a
few convolutions say how much each cell of a feature map speaks for each class, the strongest cell of a class votes, and
a pooled description of the whole map votes beside it. Labels are enough to learn from; boxes, where there are some,
teach the cells directly. The blocks in front of those that are trained run once per image, and what they give is kept.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import TrainingParams
from metal_defects.log import progress_bar
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
TIMED_STEPS = 3
# Of the cells' cross-entropy beside that of the image: a defect covers so few cells that its mean is small.
BOX_SHARE = 20.0
EVIDENCE, PROBABILITIES = "evidence", "probabilities"
Targets = dict[str, "tf.Tensor"]


@dataclass(frozen=True)
class MapExamples:
    """Feature maps in front of the blocks that are trained, with what they show.

    Attributes:
        maps: float16 (images, side, side, channels) of the clean images and then of each augmented view of them; may
            lie on disk.
        labels: int (images,).
        cells: of each of `maps`, the share of each cell that boxes of each class cover, (images, grid, grid, classes);
            NaN for an image without boxes; None where there are none at all.
        taken: positions of the images that count; all where None.
    """

    maps: tuple[np.ndarray, ...]
    labels: np.ndarray
    cells: tuple[np.ndarray, ...] | None = None
    taken: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """Positions of the images that count."""
        return np.arange(len(self.labels)) if self.taken is None else self.taken

    def take(self, rows: np.ndarray) -> "MapExamples":
        """Some of the images, by position, without a copy of their maps."""
        return replace(self, taken=rows)

    def draw(self, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Maps of some images, each of a view drawn at random, and their cells, NaN where unknown; seed 0 is clean."""
        count = len(rows)
        views = np.random.default_rng(seed).integers(len(self.maps), size=count) if seed else np.zeros(count, int)
        drawn = list(zip(views.tolist(), rows.tolist(), strict=True))
        maps = np.stack([self.maps[view][row] for view, row in drawn])
        if self.cells is None:
            return maps, np.zeros((count, 1, 1, 1), np.float32)
        return maps, np.stack([self.cells[view][row] for view, row in drawn])


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier.

    Attributes:
        model: from uint8 pixels to probabilities.
        history: per epoch.
    """

    model: "keras.Model"
    history: History


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
    epochs: int,
    make_callbacks: MakeCallbacks,
    folder: Path,
    title: str,
    seed: int,
) -> FineTuned:
    """Train the middle blocks of a backbone with an evidence head.

    Args:
        backbone: whose row says which blocks.
        network: it, with the pretrained weights; trained in place, normalisation included, depthwise kernels excepted.
        train, valid: feature maps of the layer in front of them.
        weights: of each class, float32 (classes,).
        params: section `training`.
        epochs: passes over the images.
        make_callbacks: gives the callbacks.
        folder: for checkpoints and logs.
        title: shown with the progress.
        seed: of the first weights, the order and the turns.
    """
    import keras

    keras.utils.set_random_seed(seed)
    learner, head = _build_learner(backbone, network, train, len(weights), params)
    batches = _make_batches(train, weights, params.from_scratch.batch_size, seed)
    judged = _make_batches(valid, weights, params.from_scratch.batch_size, None)
    with progress_bar() as bar:
        chosen = make_callbacks(folder, epochs, params.fine_tune_learning_rate)
        callbacks = [*chosen, epoch_progress(bar, title, epochs)]
        fitted = learner.fit(batches, validation_data=judged, epochs=epochs, callbacks=callbacks, verbose=0)
    check_converged(fitted.history)
    return FineTuned(_join(backbone, network, head), fitted.history)


def time_image(
    backbone: Backbone, network: "keras.Model", train: MapExamples, weights: np.ndarray, params: TrainingParams
) -> float:
    """Seconds of `fine_tune` per image and epoch, from a few steps; the network is of no use afterwards."""
    learner, _ = _build_learner(backbone, network, train, len(weights), params)
    batches = _make_batches(train, weights, params.from_scratch.batch_size, 0)
    taken = []
    for maps, targets, shares in batches.take(1 + TIMED_STEPS):
        start = time.monotonic()
        learner.train_on_batch(maps, targets, shares)
        taken.append((time.monotonic() - start) / len(maps))
    return float(np.mean(taken[1:] or taken))


def _open_blocks(backbone: Backbone, network: "keras.Model", classes: int) -> "tuple[keras.Model, keras.Model]":
    """The blocks that are trained, and a head on what they give."""
    import keras

    tuned = backbone.tuned_blocks
    assert tuned is not None
    ends = [network.get_layer(name).output for name in tuned.ends]
    blocks = keras.Model(network.get_layer(tuned.start).output, ends, name="blocks")
    for layer in blocks.layers:
        # On a CPU the gradient of depthwise kernels takes longer than all else, and answers are as good without it.
        layer.trainable = not isinstance(layer, keras.layers.DepthwiseConv2D)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = MOMENTUM
    shapes = {name: end.shape[1:] for name, end in zip(tuned.ends, ends, strict=True)}
    return blocks, build_evidence_head(shapes, classes)


def _build_learner(
    backbone: Backbone, network: "keras.Model", train: MapExamples, classes: int, params: TrainingParams
) -> "tuple[keras.Model, keras.Model]":
    """Compiled: feature maps to probabilities and, where boxes teach, to the evidence of every cell. And its head."""
    import keras
    from keras import layers

    blocks, head = _open_blocks(backbone, network, classes)
    outputs = {PROBABILITIES: head.output}
    if train.cells is not None:
        outputs[EVIDENCE] = layers.Activation("sigmoid", name="cells")(head.get_layer(EVIDENCE).output)
    maps = keras.Input(blocks.input_shape[1:], name="maps")
    ends = blocks(maps)
    learner = keras.Model(maps, keras.Model(head.inputs, outputs)(ends if isinstance(ends, list | tuple) else [ends]))
    of_image = keras.losses.CategoricalCrossentropy(label_smoothing=params.from_scratch.label_smoothing)
    losses = {PROBABILITIES: of_image, EVIDENCE: keras.losses.BinaryCrossentropy()}
    shares = {PROBABILITIES: 1.0, EVIDENCE: BOX_SHARE}
    learner.compile(
        optimizer=keras.optimizers.AdamW(params.fine_tune_learning_rate, weight_decay=WEIGHT_DECAY),
        loss={name: losses[name] for name in outputs},
        loss_weights={name: shares[name] for name in outputs},
    )
    return learner, head


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
    count, sample_weights = len(examples.rows), tf.constant(weights[examples.labels])

    def prepare(rows: "tf.Tensor", number: "tf.Tensor") -> "tuple[tf.Tensor, Targets, Targets]":
        maps, wanted = tf.numpy_function(examples.draw, (rows, number), (tf.float16, tf.float32))
        maps = tf.ensure_shape(tf.cast(maps, tf.float32), (None, *examples.maps[0].shape[1:]))
        targets = {PROBABILITIES: tf.one_hot(tf.gather(labels, rows), classes)}
        shares = {PROBABILITIES: tf.gather(sample_weights, rows)}
        if cells is not None:
            wanted = tf.ensure_shape(wanted, (None, *cells[0].shape[1:]))
            known = tf.math.reduce_all(tf.math.is_finite(wanted), axis=(1, 2, 3))
            targets[EVIDENCE] = _turn(tf.where(known[:, None, None, None], wanted, 0.0), number)
            shares[EVIDENCE] = tf.cast(known, tf.float32)[:, None, None]  # Keras' loss of the cells has three axes
        return _turn(maps, number), targets, shares

    rows = tf.data.Dataset.from_tensor_slices(examples.rows.astype(np.int64))
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
