"""Pooling: the statistics of a feature map that a head sees.

Moments tell textures, which fill the picture. A defect of a few cells hardly moves them; it shows in the extremes.
"""

from typing import TYPE_CHECKING, get_args

from metal_defects.config import Pooling

if TYPE_CHECKING:
    import keras

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# Statistics of each channel, in their order in a feature vector.
STATISTICS: dict[Pooling, int] = {"moments": 2, "moments+extremes": 4}


def pool(feature_map: "keras.KerasTensor", name: str, pooling: Pooling = "moments") -> "list[keras.KerasTensor]":
    """Statistics of every channel, from layers that any Keras can load.

    The moments are the mean and the variance, Var[x] = E[x²] − E[x]²; the extremes are the highest value of a cell and
    the lowest, the latter with its sign turned.

    Input shape: (batch, height, width, channels).
    Output shape: (batch, channels), once per statistic.
    """
    from keras import layers

    mean = layers.GlobalAveragePooling2D(name=f"{name}_mean")(feature_map)
    squares = layers.Multiply(name=f"{name}_squares")([feature_map, feature_map])
    mean_of_squares = layers.GlobalAveragePooling2D(name=f"{name}_mean_of_squares")(squares)
    square_of_mean = layers.Multiply(name=f"{name}_square_of_mean")([mean, mean])
    moments = [mean, layers.Subtract(name=f"{name}_variance")([mean_of_squares, square_of_mean])]
    if pooling == "moments":
        return moments
    highest = layers.GlobalMaxPooling2D(name=f"{name}_highest")(feature_map)
    turned = layers.Rescaling(-1.0, name=f"{name}_turned")(feature_map)
    return [*moments, highest, layers.GlobalMaxPooling2D(name=f"{name}_lowest")(turned)]
