"""Moment pooling: the statistics of a feature map that a head sees."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def pool_moments(feature_map: "keras.KerasTensor", name: str) -> "tuple[keras.KerasTensor, keras.KerasTensor]":
    """Mean and variance of every channel, Var[x] = E[x²] − E[x]², from layers that any Keras can load.

    Input shape: (batch, height, width, channels).
    Output shape: twice (batch, channels).
    """
    from keras import layers

    mean = layers.GlobalAveragePooling2D(name=f"{name}_mean")(feature_map)
    squares = layers.Multiply(name=f"{name}_squares")([feature_map, feature_map])
    mean_of_squares = layers.GlobalAveragePooling2D(name=f"{name}_mean_of_squares")(squares)
    square_of_mean = layers.Multiply(name=f"{name}_square_of_mean")([mean, mean])
    return mean, layers.Subtract(name=f"{name}_variance")([mean_of_squares, square_of_mean])
