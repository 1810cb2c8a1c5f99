"""Assembles classifiers from raw pixels to class probabilities, from standard Keras layers alone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import ModelBuilderParams, Pooling
from metal_defects.models.pooling import STATISTICS, pool
from metal_defects.models.results import Value
from metal_defects.models.specs import Backbone, ModelSpec, Network

if TYPE_CHECKING:
    import keras


def build_backbone(backbone: Backbone, image_size: int, seed: int, weights_file: Path | None) -> "keras.Model":
    """The backbone with weights from a file, or with seeded random ones.

    Raises:
        WeightsError: the file does not fit the network.
    """
    import keras

    from metal_defects.errors import WeightsError

    keras.utils.set_random_seed(seed)
    network = backbone.build(image_size)
    if weights_file is not None:
        try:
            backbone.load(network, weights_file)
        except (ValueError, OSError, KeyError) as error:
            raise WeightsError(
                f"The weights file does not fit {backbone.title}; remove it or fetch it anew. Got {weights_file}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if backbone.bgr:
            _reverse_input_channels(network)
    return network


def build_feature_model(
    backbone: Backbone,
    network: "keras.Model",
    taps: Sequence[str],
    pooling: Pooling = "moments",
    trainable: bool = False,
) -> "keras.Model":
    """Scaling, backbone and pooling; the backbone is frozen unless it is to be trained.

    Input shape: uint8 (batch, side, side, 3), RGB.
    Output shape: float32 (batch, statistics * channels of all taps): tap by tap one statistic after the other.
    """
    import keras
    from keras import layers

    pixels, maps = open_trunk(backbone, network, taps, trainable)
    pooled = [part for tap, feature_map in zip(taps, maps, strict=True) for part in pool(feature_map, tap, pooling)]
    features = layers.Concatenate(name="features")(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model(pixels, features, name=f"{backbone.name}_features")


def open_trunk(
    backbone: Backbone, network: "keras.Model", taps: Sequence[str], trainable: bool = False
) -> "tuple[keras.KerasTensor, list[keras.KerasTensor]]":
    """Pixels, uint8 (batch, side, side, 3), and the feature maps of some layers, (batch, height, width, channels)."""
    import keras
    from keras import layers

    side = network.input_shape[1]
    first = _first_convolution(network)
    # Cut behind any scaling of the network's own, so that every backbone is scaled in one place and one way.
    trunk = keras.Model(first.input, [network.get_layer(tap).output for tap in taps], name=backbone.name)
    trunk.trainable = trainable
    scale, offset = backbone.scaling
    pixels = keras.Input((side, side, 3), dtype="uint8", name="pixels")
    scaled = layers.Rescaling(list(scale), list(offset), name="scaling")(pixels)
    maps = trunk(scaled, training=None if trainable else False)
    return pixels, list(maps) if isinstance(maps, list | tuple) else [maps]


def tap_slices(
    feature_model: "keras.Model", backbone: Backbone, taps: Sequence[str], pooling: Pooling = "moments"
) -> dict[str, slice]:
    """Which columns of the feature vector come from which tap."""
    trunk = feature_model.get_layer(backbone.name)
    shapes = trunk.output_shape if isinstance(trunk.output_shape, list) else [trunk.output_shape]
    slices, start = {}, 0
    for tap, shape in zip(taps, shapes, strict=True):
        slices[tap] = slice(start, start + STATISTICS[pooling] * shape[-1])
        start = slices[tap].stop
    return slices


def build_head(
    mean: np.ndarray, variance: np.ndarray, classes: int, *, hidden_units: int, dropout: float, l2: float
) -> "keras.Model":
    """Standardisation, dropout, an optional hidden layer and softmax.

    Args:
        mean, variance: of the training features, float32 (features,).
        classes: number of classes.
        hidden_units: 0 for a linear head.
        dropout: share of inputs dropped while training, in [0, 1).
        l2: weight decay of the dense kernels.

    Input shape: float32 (batch, features).
    Output shape: float32 (batch, classes), probabilities.
    """
    import keras
    from keras import layers

    decay = keras.regularizers.L2(l2)
    features = keras.Input((len(mean),), name="features")
    # A frozen BatchNormalization: unlike a Normalization layer it comes back from an .h5 file inside a nested model.
    standardise = layers.BatchNormalization(
        center=False, scale=False, epsilon=1e-12, trainable=False, name="standardise"
    )
    x = standardise(features)
    standardise.set_weights([mean, floor_variance(variance)])
    x = layers.Dropout(dropout, name="dropout")(x)
    if hidden_units:
        x = layers.Dense(hidden_units, activation="relu", kernel_regularizer=decay, name="hidden")(x)
        x = layers.Dropout(dropout, name="hidden_dropout")(x)
    # From zero, no class has a head start that early stopping would keep.
    output = layers.Dense(
        classes, activation="softmax", kernel_initializer="zeros", kernel_regularizer=decay, name="probabilities"
    )(x)
    return keras.Model(features, output, name="head")


def floor_variance(variance: np.ndarray) -> np.ndarray:
    """Variances by which features are standardised, (columns,): a channel that never varies is not blown up in use."""
    return np.maximum(variance, max(1e-4 * float(np.median(variance)), 1e-12))


def assemble(feature_model: "keras.Model", head: "keras.Model", name: str) -> "keras.Model":
    """One model from uint8 pixels to probabilities."""
    import keras

    return keras.Model(feature_model.input, head(feature_model.output), name=name)


def add_untrained_head(
    feature_model: "keras.Model", classes: int, builder: ModelBuilderParams, name: str
) -> "keras.Model":
    """One model from uint8 pixels to probabilities, under a head that has seen no features."""
    columns = feature_model.output_shape[-1]
    mean, variance = np.zeros(columns, np.float32), np.ones(columns, np.float32)
    head = build_head(
        mean, variance, classes, hidden_units=builder.hidden_units, dropout=builder.dropout, l2=builder.trained_l2
    )
    return assemble(feature_model, head, name)


def build_from_scratch(
    spec: ModelSpec, image_size: int, classes: int, builder: ModelBuilderParams, seed: int, **shape: Value
) -> "keras.Model":
    """A classifier whose every weight is trained: a network of its own, or a backbone under a head.

    Args:
        spec: row of the table.
        image_size: side of the images in pixels.
        classes: number of classes.
        builder: section `model_builder`, whose `dropout` and `l2` count; a backbone's head takes `hidden_units` too.
        seed: of the initial weights.
        shape: arguments of the network's own, where they are not its defaults.

    Input shape: uint8 (batch, side, side, 3).
    Output shape: float32 (batch, classes), probabilities.
    """
    import keras

    keras.utils.set_random_seed(seed)
    if isinstance(spec, Network):
        return spec.build_classifier(image_size, classes, dropout=builder.dropout, l2=builder.trained_l2, **shape)
    assert isinstance(spec, Backbone)
    features = build_feature_model(spec, spec.build(image_size), spec.default_taps, trainable=True)
    return add_untrained_head(features, classes, builder, spec.name)


def count_multiply_adds(network: "keras.Model", ends: "Sequence[keras.KerasTensor]") -> int:
    """Multiplications of the convolutions and dense layers between a network's input and some of its tensors."""
    import keras
    from keras import layers

    total = 0
    for layer in keras.Model(network.inputs, list(ends)).layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            places = int(np.prod(layer.output.shape[1:3])) if len(layer.output.shape) == 4 else 1
            total += places * int(np.prod(layer.kernel.shape))
    return total


def digest_weights(model: "keras.Model") -> str:
    """SHA-256 over all weights in order: two models with the same digest compute the same function."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _first_convolution(network: "keras.Model") -> "keras.layers.Layer":
    """The first layer with a trainable kernel, or the padding in front of it."""
    from keras import layers

    previous = None
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            return previous if isinstance(previous, layers.ZeroPadding2D) else layer
        previous = layer
    raise ValueError(f"{network.name} has no convolution.")


def _reverse_input_channels(network: "keras.Model") -> None:
    """Make weights that expect blue first take red first: W(BGR) · x(BGR) = W(RGB) · x(RGB)."""
    from keras import layers

    convolution = next(layer for layer in network.layers if isinstance(layer, layers.Conv2D))
    kernel, *bias = convolution.get_weights()
    convolution.set_weights([kernel[:, :, ::-1, :], *bias])
