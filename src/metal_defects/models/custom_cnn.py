"""A small convolutional network for surface textures, trained from scratch."""

from typing import TYPE_CHECKING

from metal_defects.models.pooling import pool

if TYPE_CHECKING:
    import keras

POOLED_BLOCKS = 2
WIDEST = 8  # times the filters of the first block


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
    x = layers.Conv2D(1, 1, use_bias=False, kernel_initializer=mean_of_channels, trainable=False, name="grey")(x)
    # A dark image's variance is of the size of Keras' default epsilon, which would leave it darker than the others.
    x = layers.GroupNormalization(groups=1, epsilon=1e-5, center=False, scale=False, name="standardise")(x)
    moments: list[keras.KerasTensor] = []
    for block in range(depth):
        name = f"block{block + 1}"
        width = filters * min(2**block, WIDEST)
        size, stride = (5, 2) if block == 0 else (3, 1)
        x = layers.Conv2D(width, size, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        # A run has hundreds of steps, not the tens of thousands that Keras' momentum of 0.99 is made for.
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        if block >= depth - POOLED_BLOCKS:
            moments += pool(x, name)
        if block < depth - 1:
            x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.Concatenate(name="features")(moments)
    x = layers.BatchNormalization(momentum=0.9, name="features_norm")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    decay = keras.regularizers.L2(l2)
    output = layers.Dense(classes, activation="softmax", kernel_regularizer=decay, name="probabilities")(x)
    return keras.Model(pixels, output, name="custom_cnn")
