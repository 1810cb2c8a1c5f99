"""Networks from pixels to probabilities: pooling, scaling, heads, files, and every row of the table of backbones."""

from pathlib import Path

import numpy as np
import pytest
from support.toy_network import SIDE, TOY, TOY_BGR, draw_split

from metal_defects.errors import WeightsError
from metal_defects.models.networks import (
    assemble,
    build_backbone,
    build_feature_model,
    build_head,
    count_multiply_adds,
    digest_weights,
    tap_slices,
)
from metal_defects.models.specs import BACKBONES, Backbone

IMAGES = draw_split("train")[0]
PIXEL = np.array([[[[200, 100, 50]]]], np.float32)
# Scaled red, green, blue of PIXEL, computed from what the publishers of the weights print.
EXPECTED_PIXEL = {
    "vgg16": (200 - 123.68, 100 - 116.779, 50 - 103.939),
    "resnet50": (200 - 123.68, 100 - 116.779, 50 - 103.939),
    "mobilenet_v2": (200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1),
    "efficientnet_b0": ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225),
    "resnet18": ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225),
    "efficientnet_lite0": ((200 - 127) / 128, (100 - 127) / 128, (50 - 127) / 128),
}


def build_toy_classifier(hidden_units: int = 0, seed: int = 1):
    features = build_feature_model(TOY, build_backbone(TOY, SIDE, seed, None), TOY.taps)
    values = np.asarray(features(IMAGES))
    head = build_head(values.mean(0), values.var(0), 3, hidden_units=hidden_units, dropout=0.3, l2=0.001)
    return features, head, assemble(features, head, "toy")


def test_features_are_the_moments_of_the_scaled_image_at_the_taps() -> None:
    import keras

    network = build_backbone(TOY, SIDE, 1, None)
    features = build_feature_model(TOY, network, TOY.taps)
    scale, offset = (np.array(part, np.float32) for part in TOY.scaling)
    maps = keras.Model(network.input, [network.get_layer(tap).output for tap in TOY.taps])(IMAGES * scale + offset)
    expected = [moment for tap in map(np.asarray, maps) for moment in (tap.mean((1, 2)), tap.var((1, 2)))]
    assert features.input.dtype == "uint8"
    assert np.allclose(features(IMAGES), np.concatenate(expected, axis=1), atol=1e-4)
    assert tap_slices(features, TOY, TOY.taps) == {"shallow": slice(0, 8), "deep": slice(8, 20)}


def test_one_tap_gives_its_columns_alone() -> None:
    network = build_backbone(TOY, SIDE, 1, None)
    both = build_feature_model(TOY, network, TOY.taps)
    deep = build_feature_model(TOY, network, ("deep",))
    assert tap_slices(deep, TOY, ("deep",)) == {"deep": slice(0, 12)}
    assert np.allclose(deep(IMAGES), np.asarray(both(IMAGES))[:, 8:], atol=1e-6)


def test_backbone_is_frozen_unless_it_is_to_be_trained() -> None:
    frozen, free = (
        build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps, trainable=trainable)
        for trainable in (False, True)
    )
    assert frozen.trainable_weights == []
    assert len(free.trainable_weights) == 6


def test_frozen_backbone_uses_its_stored_statistics_even_in_training() -> None:
    features = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    assert np.allclose(features(IMAGES, training=True), features(IMAGES, training=False), atol=1e-6)


def test_random_weights_follow_the_seed() -> None:
    digests = [digest_weights(build_backbone(TOY, SIDE, seed, None)) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_digest_changes_with_any_weight() -> None:
    network = build_backbone(TOY, SIDE, 1, None)
    before = digest_weights(network)
    for index, array in enumerate(network.get_weights()):
        weights = network.get_weights()
        weights[index] = array + 1e-3
        network.set_weights(weights)
        after = digest_weights(network)
        assert after != before
        before = after


def test_weights_that_expect_blue_first_see_blue_first(tmp_path: Path) -> None:
    file = tmp_path / "toy.weights.h5"
    build_backbone(TOY, SIDE, 7, None).save_weights(file)
    as_published = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, file), TOY.taps)
    reversed_input = build_feature_model(TOY_BGR, build_backbone(TOY_BGR, SIDE, 1, file), TOY.taps)
    scale, offset = (list(part) for part in TOY.scaling)
    blue_first = as_published.get_layer("toy")((IMAGES * scale + offset)[..., ::-1].astype(np.float32))
    expected = np.asarray(blue_first[1]).mean((1, 2))
    assert np.allclose(np.asarray(reversed_input(IMAGES))[:, 8:14], expected, atol=1e-4)
    assert not np.allclose(np.asarray(as_published(IMAGES))[:, 8:14], expected, atol=1e-2)


def test_weights_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.weights.h5"
    file.write_bytes(b"not HDF5")
    with pytest.raises(WeightsError, match=r"does not fit Toy.*other\.weights\.h5"):
        build_backbone(TOY, SIDE, 1, file)


def test_head_standardises_what_it_sees() -> None:
    import keras

    values = np.random.default_rng(0).normal((3, -50, 0), (1, 20, 0.01), (500, 3)).astype(np.float32)
    head = build_head(values.mean(0), values.var(0), 3, hidden_units=0, dropout=0.5, l2=0.0)
    standardised = np.asarray(keras.Model(head.input, head.get_layer("standardise").output)(values))
    assert np.allclose(standardised.mean(0), 0, atol=1e-3)
    assert np.allclose(standardised.std(0), 1, atol=1e-3)
    assert np.allclose(np.asarray(head(values)).sum(1), 1, atol=1e-5)


def test_constant_feature_is_not_blown_up() -> None:
    import keras

    mean, variance = np.array([5.0, 1.0, 2.0], np.float32), np.array([0.0, 1.0, 4.0], np.float32)
    head = build_head(mean, variance, 2, hidden_units=0, dropout=0.0, l2=0.0)
    standardised = keras.Model(head.input, head.get_layer("standardise").output)(np.array([[5.1, 1, 2]], np.float32))
    assert np.abs(standardised).max() < 15


@pytest.mark.parametrize(
    ("hidden_units", "layers"),
    [(0, ["dropout", "probabilities"]), (8, ["dropout", "hidden", "hidden_dropout", "probabilities"])],
)
def test_head_has_the_layers_asked_for(hidden_units: int, layers: list[str]) -> None:
    moments = np.zeros(4, np.float32), np.ones(4, np.float32)
    head = build_head(*moments, 3, hidden_units=hidden_units, dropout=0.25, l2=0.1)
    assert [layer.name for layer in head.layers][2:] == layers
    assert head.get_layer("dropout").rate == 0.25
    assert float(head.get_layer("probabilities").kernel_regularizer.l2) == pytest.approx(0.1)
    trained = [weight.path.split("/")[-2] for weight in head.trainable_weights]
    assert set(trained) == {name for name in layers if "dropout" not in name}


@pytest.mark.parametrize("hidden_units", [0, 8])
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_assembled_model_is_head_of_features_and_survives_a_file(
    suffix: str, hidden_units: int, tmp_path: Path
) -> None:
    import keras

    features, head, model = build_toy_classifier(hidden_units)
    expected = np.asarray(head(features(IMAGES)))
    assert np.allclose(model(IMAGES), expected, atol=1e-6)
    model.save(tmp_path / f"model.{suffix}", include_optimizer=False)
    again = keras.models.load_model(tmp_path / f"model.{suffix}")
    assert again.input.dtype == "uint8"
    assert np.allclose(again(IMAGES), expected, atol=1e-6)
    assert digest_weights(again) == digest_weights(model)


def test_choice_of_taps() -> None:
    backbone = BACKBONES["efficientnet_lite0"]
    assert backbone.choose_taps("default") == backbone.default_taps
    assert backbone.choose_taps("early") == ("block_4_out", "block_8_out", "block_11_out")
    assert backbone.choose_taps("deep") == ("head_out",)
    assert backbone.choose_taps("all") == backbone.taps


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_every_backbone_gives_features_of_raw_pixels(backbone: Backbone) -> None:
    side = 64
    network = build_backbone(backbone, side, 1, None)
    features = build_feature_model(backbone, network, backbone.taps)
    channels = [network.get_layer(tap).output.shape[-1] for tap in backbone.taps]
    assert set(backbone.default_taps) <= set(backbone.taps)
    assert features.input.dtype == "uint8"
    assert features.output_shape == (None, 2 * sum(channels))
    slices = tap_slices(features, backbone, backbone.taps)
    assert [part.stop - part.start for part in slices.values()] == [2 * count for count in channels]

    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    values = np.asarray(features(image))
    assert np.isfinite(values).all()
    assert (values.std() > 0) and (values[:, slices[backbone.taps[-1]]].std() > 0)

    scaled = np.asarray(features.get_layer("scaling")(PIXEL)).ravel()
    assert scaled == pytest.approx(EXPECTED_PIXEL[backbone.name], abs=1e-4)
    assert backbone.bgr == (backbone.name in ("vgg16", "resnet50"))
    trunk = features.get_layer(backbone.name)
    scalers = [layer.name for layer in trunk.layers if "rescaling" in layer.name or layer.name == "normalization"]
    assert not scalers, "pixels must be scaled in one place"


@pytest.mark.parametrize(("name", "published"), [("efficientnet_lite0", 0.39e9), ("resnet18", 1.81e9)])
def test_multiply_adds_are_those_published(name: str, published: float) -> None:
    """Lite0: 407 million with what is not a convolution (TensorFlow's table); ResNet18: 1.81 · 10⁹ (torchvision)."""
    network = BACKBONES[name].build(224)
    whole = count_multiply_adds(network, network.outputs)
    assert whole == pytest.approx(published, rel=0.03)
    costs = [count_multiply_adds(network, [network.get_layer(tap).output]) for tap in BACKBONES[name].taps]
    assert costs == sorted(costs) and 0 < costs[0] < costs[-1] <= whole


def test_multiply_adds_by_hand() -> None:
    network = TOY.build(SIDE)
    shallow, deep = (count_multiply_adds(network, [network.get_layer(tap).output]) for tap in TOY.taps)
    assert shallow == 32 * 32 * 3 * 3 * 3 * 4
    assert deep == shallow + 15 * 15 * 3 * 3 * 4 * 6
