"""The locator, weakly or box-supervised segmentation: a small head on feature maps that draws where a defect is.

It learns from boxes where the data has them, and from the labels alone where it has none.

The graph is the same: a projection of every map to one grid, two 3×3 convolutions, and a transposed convolution that
doubles the resolution. The grid has about a sixteenth of the image's side, where convolutions cost little.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from metal_defects.log import logger, track
from metal_defects.trust.locator_maps import choose_grid
from metal_defects.trust.locator_targets import cover_cells, weigh_labels
from metal_defects.trust.locator_thresholds import choose_box_threshold, choose_by_contrast, choose_threshold

if TYPE_CHECKING:
    import keras

WIDTH, DEPTH = 24, 2  # channels and number of the 3×3 convolutions
DROPOUT = 0.2
LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE, EPOCHS = 3e-3, 1e-4, 32, 20
FEWEST_STEPS, MOST_STEPS = 100, 800
OVERLAP_SHARE = 0.5  # of the overlap in the loss, beside the cross-entropy
# Images with boxes, below which the labels teach more.
FEWEST_BOXED = 20
# Training images that the thresholds are chosen on; more hardly move them.
MOST_JUDGED = 400


@dataclass(frozen=True)
class Locator:
    """What `locator_layers` needs.

    Attributes:
        kind: what it was taught by.
        taps: the feature maps that it reads, shallow to deep; the evidence alone of a network that looks at cells.
        grid: cells per side of the hidden layers; the heat map has twice as many.
        weights: of the layers, in their order; the standardisation of the feature maps is folded in.
        threshold: of the heat map, from which a cell counts as part of a defect; chosen on training images.
        box_threshold: for `find_boxes`; higher, because neighbouring defects melt into one region at the other.
        images: number of images that it learned from.
    """

    kind: Literal["boxes", "labels"]
    taps: tuple[str, ...]
    grid: int
    weights: tuple[np.ndarray, ...]
    threshold: float
    box_threshold: float
    images: int

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, for answer.npz; `from_arrays` reads it."""
        weights = {f"weight_{index:02d}": array for index, array in enumerate(self.weights)}
        names = {"kind": np.array(self.kind), "taps": np.array(self.taps)}
        numbers = {name: np.array(getattr(self, name)) for name in ("grid", "threshold", "box_threshold", "images")}
        return names | numbers | weights

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Locator":
        """The locator that `to_arrays` stored."""
        weights = tuple(arrays[name] for name in sorted(arrays) if name.startswith("weight_"))
        return cls(
            kind="boxes" if str(arrays["kind"]) == "boxes" else "labels",
            taps=tuple(arrays["taps"].tolist()),
            grid=int(arrays["grid"]),
            weights=weights,
            threshold=float(arrays["threshold"]),
            box_threshold=float(arrays["box_threshold"]),
            images=int(arrays["images"]),
        )


def fit_locator(
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    boxes: Sequence[np.ndarray] | None,
    image_size: int,
    seed: int,
) -> Locator:
    """Teach a locator: by the boxes where FEWEST_BOXED images or more have some, else by the labels.

    Args:
        features: of the training images, from `extract_maps`.
        labels: class index of each, (images,).
        boxes: of each, left, top, right, bottom as shares of the sides, (n, 4); of whatever class. Images without any
            are left out, because nobody knows whether they show no defect or were not annotated.
        image_size: side of the images in pixels.
        seed: of the first weights and the order.
    """
    grid = choose_grid({tap: one.shape[1] for tap, one in features.items()}, image_size)
    boxed = np.flatnonzero([len(each) > 0 for each in boxes]) if boxes is not None else np.array([], int)
    if boxes is not None and len(boxed) >= FEWEST_BOXED:
        targets = np.stack([cover_cells(boxes[index], 2 * grid) for index in boxed.tolist()])
        model, weights = _train(features, boxed, targets, grid, OVERLAP_SHARE, seed)
        judged = boxed[np.linspace(0, len(boxed) - 1, min(MOST_JUDGED, len(boxed))).round().astype(int)]
        heat_maps, known = _draw(model, features, judged), [boxes[index] for index in judged.tolist()]
        thresholds = choose_threshold(heat_maps, known), choose_box_threshold(heat_maps, known)
        return Locator("boxes", tuple(features), grid, weights, *thresholds, len(boxed))
    if len(boxed):
        logger.warning("   %d images have boxes, fewer than %d: the labels are used", len(boxed), FEWEST_BOXED)
    everything = np.arange(len(labels))
    targets = weigh_labels(list(features.values()), np.asarray(labels), 2 * grid)
    model, weights = _train(features, everything, targets, grid, 0.0, seed)
    threshold = choose_by_contrast(_draw(model, features, everything))
    return Locator("labels", tuple(features), grid, weights, threshold, threshold, len(everything))


def locator_layers(maps: "Mapping[str, keras.KerasTensor]", locator: Locator) -> "keras.KerasTensor":
    """Add the locator to a graph.

    Args:
        maps: feature maps by name, float32 (batch, side, side, channels).
        locator: that was fitted.

    Returns:
        float32 (batch, rows, columns) in [0, 1], rows from the top: how likely each cell shows a defect.
    """
    from keras import layers

    logits, used = _stack({tap: maps[tap] for tap in locator.taps}, locator.grid, dropout=0.0)
    remaining = iter(locator.weights)
    for layer in used:
        layer.set_weights([next(remaining) for _ in layer.weights])
    flat = layers.Reshape(logits.shape[1:3], name="heat_map_rows")(logits)
    return layers.Activation("sigmoid", name="heat_map")(flat)


def draw_maps(features: Mapping[str, np.ndarray], locator: Locator) -> np.ndarray:
    """Heat maps of images from their feature maps, float32 (images, rows, columns)."""
    import keras

    inputs = {tap: keras.Input(features[tap].shape[1:], name=f"map_{n}") for n, tap in enumerate(locator.taps)}
    model = keras.Model(list(inputs.values()), locator_layers(inputs, locator))
    return _draw(model, {tap: features[tap] for tap in locator.taps}, np.arange(len(features[locator.taps[0]])))


def _stack(
    maps: "Mapping[str, keras.KerasTensor]", grid: int, dropout: float
) -> "tuple[keras.KerasTensor, list[keras.layers.Layer]]":
    """Logits, (batch, 2 * grid, 2 * grid, 1), and the layers with weights in their order."""
    from keras import layers

    parts, used = [], []
    for number, one in enumerate(maps.values()):
        side = one.shape[1]
        step = max(1, side // grid)
        # A larger map is folded, each step × step patch into one cell: its detail is projected, not averaged away.
        project = layers.Conv2D(WIDTH, step, strides=step, name=f"locate_{number}_project")
        part = project(layers.SpatialDropout2D(dropout)(one) if dropout else one)
        if side < grid:
            part = layers.UpSampling2D(grid // side, interpolation="bilinear", name=f"locate_{number}_stretch")(part)
        parts.append(part)
        used.append(project)
    x = layers.Add(name="locate_sum")(parts) if len(parts) > 1 else parts[0]
    x = layers.ReLU(name="locate_sum_relu")(x)
    for number in range(DEPTH):
        used.append(layers.Conv2D(WIDTH, 3, padding="same", activation="relu", name=f"locate_conv_{number}"))
        x = used[-1](x)
    used.append(layers.Conv2DTranspose(1, 4, strides=2, padding="same", name="locate_logits"))
    return used[-1](x), used


def _train(
    features: Mapping[str, np.ndarray], rows: np.ndarray, targets: np.ndarray, grid: int, overlap: float, seed: int
) -> "tuple[keras.Model, tuple[np.ndarray, ...]]":
    """A model from feature maps to heat maps, and its weights for feature maps that are not standardised."""
    import keras

    moments = {tap: _measure(one, rows) for tap, one in features.items()}
    keras.utils.set_random_seed(seed)
    inputs = {tap: keras.Input(one.shape[1:], name=f"map_{n}") for n, (tap, one) in enumerate(features.items())}
    logits, layers = _stack(inputs, grid, DROPOUT)
    model = keras.Model(list(inputs.values()), logits)
    steps = int(np.clip(EPOCHS * len(rows) / BATCH_SIZE, FEWEST_STEPS, MOST_STEPS))
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 100, steps - steps // 10, warmup_target=LEARNING_RATE, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    step = _compile_step(model, optimizer, list(moments.values()), overlap)
    random = np.random.default_rng(seed)
    for chosen in track(_draw_batches(len(rows), steps, random), "Locator", total=steps):
        turns, mirror = int(random.integers(4)), bool(random.integers(2))
        step([one[rows[chosen]] for one in features.values()], targets[chosen][..., None], turns, mirror)
    for layer, (mean, spread) in zip(layers, moments.values(), strict=False):
        kernel, bias = layer.get_weights()
        kernel = kernel / spread[:, None]
        layer.set_weights([kernel, bias - np.einsum("hwcd,c->d", kernel, mean)])
    weights = tuple(array for layer in layers for array in layer.get_weights())
    heat = keras.layers.Activation("sigmoid")(keras.layers.Reshape(logits.shape[1:3])(logits))
    return keras.Model(list(inputs.values()), heat), weights


def _compile_step(
    model: "keras.Model",
    optimizer: "keras.optimizers.Optimizer",
    moments: Sequence[tuple[np.ndarray, np.ndarray]],
    overlap: float,
) -> Callable[[list[np.ndarray], np.ndarray, int, bool], None]:
    """One step of training as one graph, which reads half precision, standardises and turns on all cores.

    The loss is the cross-entropy of the cells, plus `overlap` times 1 - intersection over union of the soft masks.

    Args:
        model: from standardised feature maps to logits; trained in place.
        optimizer: of its weights.
        moments: mean and standard deviation of the channels of every map.
        overlap: weight.

    Returns:
        Takes feature maps float16 (batch, side, side, channels), targets (batch, side, side, 1), quarter turns, and
        whether to mirror: one of the eight symmetries of the square, the same for the whole batch.
    """
    import tensorflow as tf
    from keras import losses, ops

    optimizer.build(model.trainable_variables)

    def turn(batch: "tf.Tensor", turns: "tf.Tensor", mirror: "tf.Tensor") -> "tf.Tensor":
        turned = tf.image.rot90(batch, turns)
        return tf.where(mirror, tf.reverse(turned, [2]), turned)

    @tf.function(reduce_retracing=True)
    def step(maps: "list[tf.Tensor]", targets: "tf.Tensor", turns: "tf.Tensor", mirror: "tf.Tensor") -> None:
        pairs = zip(maps, moments, strict=True)
        batch = [turn((tf.cast(one, tf.float32) - mean) / spread, turns, mirror) for one, (mean, spread) in pairs]
        wanted = turn(targets, turns, mirror)
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            cells = ops.mean(losses.binary_crossentropy(wanted, logits, from_logits=True))
            shares = ops.sigmoid(logits)
            both = ops.sum(shares * wanted, axis=(1, 2, 3))
            either = ops.sum(shares + wanted - shares * wanted, axis=(1, 2, 3))
            loss = cells + overlap * ops.mean(1 - (both + 1) / (either + 1))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    def run(maps: list[np.ndarray], targets: np.ndarray, turns: int, mirror: bool) -> None:
        step([tf.constant(one) for one in maps], tf.constant(targets), tf.constant(turns), tf.constant(mirror))

    return run


def _draw_batches(count: int, steps: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Positions of the images of each step; every image once per round."""
    size = min(BATCH_SIZE, count)
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, random.permutation(count)])
        yield order[:size]
        order = order[size:]


def _measure(maps: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel over images and cells, float32 (channels,) each."""
    means = np.stack([maps[row].mean(axis=(0, 1), dtype=np.float32) for row in rows])
    squares = np.stack([np.square(maps[row].astype(np.float32)).mean(axis=(0, 1)) for row in rows])
    mean = means.mean(axis=0)
    variance = np.maximum(squares.mean(axis=0) - mean**2, 0)
    # A channel that hardly varies must not be blown up.
    return mean, np.sqrt(np.maximum(variance, 1e-4 * np.median(variance) + 1e-12))


def _draw(model: "keras.Model", features: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    compiled = tf.function(lambda maps: model(maps, training=False), reduce_retracing=True)
    parts = []
    for start in range(0, len(rows), 64):
        chosen = rows[start : start + 64]
        parts.append(compiled([tf.constant(one[chosen].astype(np.float32)) for one in features.values()]).numpy())
    return np.concatenate(parts)
