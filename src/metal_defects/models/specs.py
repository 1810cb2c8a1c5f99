"""The networks that can be frozen and used as feature extractors: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.models.weights import WEIGHTS, WeightsSource

if TYPE_CHECKING:
    import keras

Triple = tuple[float, float, float]
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Input scaling x * scale + offset per RGB channel of grey levels 0..255, named as the publishers of the weights do.
_TF: tuple[Triple, Triple] = ((1 / 127.5,) * 3, (-1.0,) * 3)
_LITE: tuple[Triple, Triple] = ((1 / 128,) * 3, (-127 / 128,) * 3)
_CAFFE: tuple[Triple, Triple] = ((1.0,) * 3, (-123.68, -116.779, -103.939))
_TORCH: tuple[Triple, Triple] = (
    tuple(1 / (255 * std) for std in _IMAGENET_STD),
    tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)),
)


@dataclass(frozen=True)
class Backbone:
    """A convolutional network without its classifier.

    Attributes:
        name: as in params.yaml.
        title: as in the literature.
        weights: the file of its ImageNet weights, where it is had, and its digest.
        build: makes the network for square images of a side in pixels; input float32 (side, side, 3), scaled.
        load: puts a weights file into what `build` made.
        scaling: per-channel scale and offset that turn grey levels 0..255 into what the weights expect.
        bgr: the weights expect blue first.
        taps: layers whose output is pooled, shallow to deep.
        default_taps: those that are used unless tuning says otherwise.
        gmacs: 10^9 multiply-adds per 224 px image, as published; the measure of cost.
    """

    name: str
    title: str
    weights: WeightsSource
    build: "Callable[[int], keras.Model]"
    load: "Callable[[keras.Model, Path], None]"
    scaling: tuple[Triple, Triple]
    taps: tuple[str, ...]
    default_taps: tuple[str, ...]
    gmacs: float
    bgr: bool = False

    def choose_taps(self, choice: str) -> tuple[str, ...]:
        """Layer names for "default", "deep" (the last layer, as in common practice) or "all"."""
        return {"default": self.default_taps, "deep": self.taps[-1:], "all": self.taps}[choice]


def _keras_application(function_name: str) -> "Callable[[int], keras.Model]":
    def build(image_size: int) -> "keras.Model":
        import keras

        function = getattr(keras.applications, function_name)
        return function(include_top=False, weights=None, input_shape=(image_size, image_size, 3))

    return build


def _load_keras_weights(model: "keras.Model", path: Path) -> None:
    model.load_weights(path)


def _build_efficientnet_lite0(image_size: int) -> "keras.Model":
    from metal_defects.models.efficientnet_lite import build_efficientnet_lite0

    return build_efficientnet_lite0(image_size)


def _load_efficientnet_lite0(model: "keras.Model", path: Path) -> None:
    from metal_defects.models.efficientnet_lite import load_efficientnet_lite0

    load_efficientnet_lite0(model, path)


def _build_resnet18(image_size: int) -> "keras.Model":
    from metal_defects.models.resnet18 import build_resnet18

    return build_resnet18(image_size)


def _load_resnet18(model: "keras.Model", path: Path) -> None:
    from metal_defects.models.resnet18 import load_resnet18

    load_resnet18(model, path)


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            name="vgg16",
            title="VGG16",
            weights=WEIGHTS["vgg16"],
            build=_keras_application("VGG16"),
            load=_load_keras_weights,
            scaling=_CAFFE,
            bgr=True,
            taps=("block3_conv3", "block4_conv3", "block5_conv3"),
            default_taps=("block3_conv3", "block4_conv3", "block5_conv3"),
            gmacs=15.5,
        ),
        Backbone(
            name="resnet50",
            title="ResNet50",
            weights=WEIGHTS["resnet50"],
            build=_keras_application("ResNet50"),
            load=_load_keras_weights,
            scaling=_CAFFE,
            bgr=True,
            taps=("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
            default_taps=("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
            gmacs=3.9,
        ),
        Backbone(
            name="mobilenet_v2",
            title="MobileNetV2",
            weights=WEIGHTS["mobilenet_v2"],
            build=_keras_application("MobileNetV2"),
            load=_load_keras_weights,
            scaling=_TF,
            taps=("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"),
            default_taps=("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu"),
            gmacs=0.30,
        ),
        Backbone(
            name="efficientnet_b0",
            title="EfficientNetB0",
            weights=WEIGHTS["efficientnet_b0"],
            build=_keras_application("EfficientNetB0"),
            load=_load_keras_weights,
            scaling=_TORCH,
            taps=(
                "block3a_expand_activation",
                "block4a_expand_activation",
                "block6a_expand_activation",
                "top_activation",
            ),
            default_taps=("block3a_expand_activation", "block4a_expand_activation", "block6a_expand_activation"),
            gmacs=0.39,
        ),
        Backbone(
            name="resnet18",
            title="ResNet18",
            weights=WEIGHTS["resnet18"],
            build=_build_resnet18,
            load=_load_resnet18,
            scaling=_TORCH,
            taps=("layer1_out", "layer2_out", "layer3_out", "layer4_out"),
            default_taps=("layer1_out", "layer2_out", "layer3_out"),
            gmacs=1.8,
        ),
        Backbone(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0",
            weights=WEIGHTS["efficientnet_lite0"],
            build=_build_efficientnet_lite0,
            load=_load_efficientnet_lite0,
            scaling=_LITE,
            taps=("block_4_out", "block_8_out", "block_11_out", "block_15_out", "head_out"),
            default_taps=("block_4_out", "block_8_out", "block_11_out", "block_15_out"),
            gmacs=0.40,
        ),
    )
}
