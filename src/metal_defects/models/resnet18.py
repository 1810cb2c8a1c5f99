"""ResNet-18 as torchvision has it, so that torchvision's ImageNet weights fit.

Architecture: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, the 18-layer column.
With a stride of two PyTorch pads all sides alike, Keras' "same" less above and left: padding is explicit here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_LAYER = 2
EPSILON = 1e-5
# PyTorch's momentum of 0.1 weighs the new batch, Keras' the old statistics.
MOMENTUM = 0.9
_IGNORED = ("fc.weight", "fc.bias")


def build_resnet18(image_size: int) -> "keras.Model":
    """ResNet-18 up to its last feature map, with random weights.

    Outputs of the four layers are named `layer1_out` … `layer4_out`, those of their first blocks `layer1_0_out` ….

    Input shape: float32 (batch, image_size, image_size, 3), RGB, scaled to (x / 255 - mean) / deviation with ImageNet's
        mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225).
    Output shape: float32 (batch, image_size / 32, image_size / 32, 512), not negative; sides are rounded up.
    """
    import keras
    from keras import layers

    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = _convolve(inputs, 64, "conv1", "bn1", kernel=7, stride=2)
    x = layers.ReLU(name="conv1_out")(x)
    # Zeros can't win against the outputs of a ReLU, so they stand for PyTorch's minus infinity.
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    for layer, channels in enumerate(CHANNELS, start=1):
        for block in range(BLOCKS_PER_LAYER):
            name = f"layer{layer}_{block}"
            output = f"{name}_out" if block < BLOCKS_PER_LAYER - 1 else f"layer{layer}_out"
            x = _add_basic_block(x, channels, 2 if layer > 1 and block == 0 else 1, name, output)
    return keras.Model(inputs, x, name="resnet18")


def load_resnet18(model: "keras.Model", path: Path) -> None:
    """Set the weights of `build_resnet18` from a state dict of torchvision.

    Raises:
        WeightsError: the file is damaged or made for another network.
    """
    from metal_defects.models.state_dict import assign_state_dict, read_state_dict

    state = read_state_dict(path)
    counters = [name for name in state if name.endswith(".num_batches_tracked")]
    modules = {layer.name: _module(layer.name) for layer in model.layers}
    assign_state_dict(model, state, modules, ignored=(*_IGNORED, *counters))


def _convolve(
    x: "keras.KerasTensor", channels: int, conv: str, bn: str, kernel: int, stride: int
) -> "keras.KerasTensor":
    """Convolution, padded on all sides by half its kernel, and batch normalization."""
    from keras import layers

    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{conv}_pad")(x)
    x = layers.Conv2D(channels, kernel, stride, use_bias=False, name=conv)(x)
    return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=bn)(x)


def _add_basic_block(x: "keras.KerasTensor", channels: int, stride: int, name: str, output: str) -> "keras.KerasTensor":
    """Two 3x3 convolutions around which the input, projected where its shape changes, is added."""
    from keras import layers

    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = _convolve(x, channels, f"{name}_downsample_0", f"{name}_downsample_1", kernel=1, stride=stride)
    x = _convolve(x, channels, f"{name}_conv1", f"{name}_bn1", kernel=3, stride=stride)
    x = layers.ReLU(name=f"{name}_conv1_out")(x)
    x = _convolve(x, channels, f"{name}_conv2", f"{name}_bn2", kernel=3, stride=1)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=output)(x)


def _module(layer: str) -> str:
    """The PyTorch module of a layer with weights: `layer2_0_downsample_1` is `layer2.0.downsample.1`."""
    return layer.replace("_", ".")
