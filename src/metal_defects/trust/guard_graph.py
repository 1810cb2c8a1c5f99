"""The guard, an out-of-distribution detector, as layers of a graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.trust.guard import Guard

if TYPE_CHECKING:
    import keras


def guard_layers(moments: "Sequence[keras.KerasTensor]", guard: Guard) -> "keras.KerasTensor":
    """The guard as part of a Keras graph that is exported to ONNX (a .h5 file would not take its operations).

    Input shape: per tap twice (batch, channels), the means and then the variances.
    Output shape: (batch,), distance in units of the limit.
    """
    from keras import layers, ops

    count, size, rank = guard.directions.shape
    floors = np.split(guard.floor.astype(np.float32), np.cumsum(guard.channels)[:-1])
    columns = [
        column
        for mean, variance, floor in zip(moments[::2], moments[1::2], floors, strict=True)
        for column in (mean, ops.log(ops.maximum(variance, 0.0) + floor))
    ]
    joined = layers.Concatenate(name="guard_moments")(columns)
    z = _dense(joined, guard.whitening, -guard.centre @ guard.whitening, "guard_whitening")
    # |z - m|² = |z|² - 2 z·m + |m|²
    cross = _dense(z, -2 * guard.means.T, np.square(guard.means).sum(axis=1), "guard_means")
    squares = (ops.sum(ops.square(z), axis=1, keepdims=True) + cross) * guard.stiffness.astype(np.float32)
    if rank:
        flat = guard.directions.transpose(1, 0, 2).reshape(size, count * rank)
        offsets = -np.einsum("cd,cdr->cr", guard.means, guard.directions).ravel()
        own = layers.Reshape((count, rank), name="guard_own")(_dense(z, flat, offsets, "guard_directions"))
        squares = squares + ops.sum(ops.square(own) * guard.weights.astype(np.float32), axis=2)
    nearest = ops.maximum(ops.min(squares, axis=1), 0.0)
    return ops.sqrt(nearest) / np.float32(guard.scale)


def _dense(x: "keras.KerasTensor", kernel: np.ndarray, bias: np.ndarray, name: str) -> "keras.KerasTensor":
    from keras import layers

    layer = layers.Dense(kernel.shape[1], trainable=False, name=name)
    result = layer(x)
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return result
