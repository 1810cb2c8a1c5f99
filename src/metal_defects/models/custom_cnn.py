"""A small convolutional network for surface textures, trained from scratch, and the augmentation that it needs."""

import math
from typing import TYPE_CHECKING

from metal_defects.config import AugmentationParams
from metal_defects.models.networks import pool_moments

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

GMACS = 0.06  # 10^9 multiply-adds per 224 px image, with the default filters and depth
POOLED_BLOCKS = 2
WIDEST = 8  # times the filters of the first block
# Interpolation blurs. A network that saw blurred textures only takes sharp ones for something else (on NEU, 10 % of
# them), so part of the images keep their pixels.
SHARP_SHARE = 0.5


def build_custom_cnn(
    image_size: int, classes: int, *, filters: int = 16, depth: int = 5, dropout: float, l2: float
) -> "keras.Model":
    """Blocks of convolution, BatchNormalization, ReLU and pooling; mean and variance of the last two; a linear head.

    The image becomes grey and gets zero mean and unit variance, so that the lighting does not matter; colour is not
    used. The first convolution halves the resolution, which makes the network four times cheaper.

    Args:
        image_size: side of the images in pixels, at least 2 ** depth.
        classes: number of classes.
        filters: of the first block; each block has twice those of the one before, up to eight times this.
        depth: number of blocks, at least 2.
        dropout: before the last layer, in [0, 1).
        l2: weight decay of the last layer.

    Input shape: uint8 (batch, image_size, image_size, 3).
    Output shape: float32 (batch, classes), probabilities.
    """
    import keras
    from keras import layers

    pixels = keras.Input((image_size, image_size, 3), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scaling")(pixels)
    mean_of_channels = keras.initializers.Constant(1 / 3)
    x = layers.Conv2D(
        1, 1, use_bias=False, kernel_initializer=mean_of_channels, trainable=False, name="grey"
    )(x)
    x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, name="standardise")(x)
    moments = []
    for block in range(depth):
        name = f"block{block + 1}"
        width = filters * min(2**block, WIDEST)
        size, stride = (5, 2) if block == 0 else (3, 1)
        x = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        # A run has hundreds of steps, not the tens of thousands that Keras' momentum of 0.99 is made for.
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        if block >= depth - POOLED_BLOCKS:
            moments += pool_moments(x, name)
        if block < depth - 1:
            x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.Concatenate(name="features")(moments)
    x = layers.BatchNormalization(momentum=0.9, name="features_norm")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    decay = keras.regularizers.L2(l2)
    output = layers.Dense(classes, activation="softmax", kernel_regularizer=decay, name="probabilities")(x)
    return keras.Model(pixels, output, name="custom_cnn")


def augment_batches(dataset: "tf.data.Dataset", params: AugmentationParams, seed: int) -> "tf.data.Dataset":
    """Change the images of every batch at random, differently in every epoch.

    Flips, quarter turns, rotation, zoom and shift are one interpolation, which keeps this below a fifth of the cost
    of training; blur and noise are left out for the same reason.

    Args:
        dataset: batches of uint8 images (batch, side, side, 3) and whatever goes with them.
        params: which changes, and how large at most.
        seed: the same seed gives the same changes in the same order.

    Returns:
        Batches of the same shapes and types.
    """
    import tensorflow as tf

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def change(batch: "tuple[tf.Tensor, ...]", pair: "tf.Tensor") -> "tuple[tf.Tensor, ...]":
        images, *rest = batch
        move, light = tf.unstack(tf.random.split(pair, 2))
        changed = _relight(_move(tf.cast(images, tf.float32), params, move), params, light)
        return tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8), *rest

    return tf.data.Dataset.zip(dataset, seeds).map(change, num_parallel_calls=tf.data.AUTOTUNE)


def _move(images: "tf.Tensor", params: AugmentationParams, seed: "tf.Tensor") -> "tf.Tensor":
    """Flip, turn, zoom and shift float32 images (batch, side, side, 3); the border is mirrored."""
    import tensorflow as tf

    count, side = tf.shape(images)[0], tf.cast(tf.shape(images)[1], tf.float32)
    uniform = tf.unstack(tf.random.stateless_uniform((8, count), seed, -1, 1))
    interpolated = tf.cast(uniform[0] > 2 * SHARP_SHARE - 1, tf.float32)
    angle = interpolated * uniform[1] * math.radians(params.rotation_degrees)
    if params.quarter_turns:
        angle += tf.floor(2 * uniform[2]) * (math.pi / 2)
    scale = 1 / (1 + interpolated * uniform[3] * params.zoom)
    flip_x, flip_y = (tf.sign(draw) if params.flip else tf.ones(count) for draw in uniform[4:6])
    # TensorFlow wants, for every output pixel, where it comes from in the input: two rows of a matrix and an offset.
    cosine, sine, centre = tf.cos(angle) * scale, tf.sin(angle) * scale, (side - 1) / 2
    rows = ((cosine * flip_x, -sine * flip_y), (sine * flip_x, cosine * flip_y))
    shifts = (tf.round(draw * params.shift * side) for draw in uniform[6:8])
    matrix = [(a, b, centre - (a + b) * centre + shift) for (a, b), shift in zip(rows, shifts, strict=True)]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*matrix[0], *matrix[1], tf.zeros(count), tf.zeros(count)], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _relight(images: "tf.Tensor", params: AugmentationParams, seed: "tf.Tensor") -> "tf.Tensor":
    """Contrast about each image's mean, then brightness, on float32 images with levels from 0 to 255."""
    import tensorflow as tf

    contrast, brightness = tf.unstack(tf.random.stateless_uniform((2, tf.shape(images)[0], 1, 1, 1), seed, -1, 1))
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (1 + params.contrast * contrast) + 255 * params.brightness * brightness
