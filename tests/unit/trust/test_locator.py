"""The locator: taught on generated patches, exported, and found again in ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

from metal_defects.models.feature_maps import extract_maps
from metal_defects.plots.locator import draw_locations
from metal_defects.trust.locator import Locator, draw_maps, fit_locator, locator_layers
from metal_defects.trust.locator_findings import judge_locator
from metal_defects.trust.locator_maps import choose_grid, choose_learned, choose_taps, count_affordable
from metal_defects.trust.locator_scores import score_maps

SIDE, COUNT = 64, 48


def draw_images() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Grey plates with one patch each, bright or striped by the class, and the patch's box."""
    random = np.random.default_rng(0)
    images = random.integers(100, 120, (COUNT, SIDE, SIDE, 3)).astype(np.uint8)
    labels, boxes = np.arange(COUNT) % 2, []
    for image, label in zip(images, labels, strict=True):
        top, left = random.integers(0, SIDE - 24, 2)
        patch = image[top : top + 24, left : left + 24]
        if label:
            patch[::2] = 30
        else:
            patch[:] = 230
        boxes.append(np.array([[left, top, left + 24, top + 24]]) / SIDE)
    return images, labels, boxes


def build_network() -> "tuple[object, dict[str, object]]":
    """Pixels, and maps of 16, 8, 4 and 2 cells per side."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="pixels")
    x, maps = layers.Rescaling(1 / 127.5, -1)(pixels), {}
    for number, width in enumerate((4, 8, 8, 8, 8)):
        x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
        maps[f"tap{number}"] = x
    return pixels, maps


@pytest.fixture(scope="module")
def plates() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    return draw_images()


@pytest.fixture(scope="module")
def features(plates: tuple, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    pixels, maps = build_network()
    taps = choose_taps({name: one.shape[1] for name, one in maps.items()}, SIDE)
    return extract_maps(pixels, {tap: maps[tap] for tap in taps}, plates[0], tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def taught(plates: tuple, features: dict[str, np.ndarray]) -> dict[str, Locator]:
    _, labels, boxes = plates
    known = {"boxes": boxes, "labels": None}
    return {kind: fit_locator(features, labels, each, SIDE, 1) for kind, each in known.items()}


def test_maps_are_those_of_the_network(plates: tuple, features: dict[str, np.ndarray]) -> None:
    import keras

    pixels, maps = build_network()
    assert list(features) == ["tap2", "tap3", "tap4"]
    for tap, one in features.items():
        expected = keras.Model(pixels, maps[tap])(plates[0], training=False).numpy()
        assert one.dtype == np.float16
        assert np.allclose(one, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("sides", "image_size", "grid", "kept"),
    [
        ((28, 14, 7, 7), 224, 14, (28, 14, 7, 7)),
        ((56, 28, 14, 7), 224, 14, (28, 14, 7)),
        ((112, 56, 28, 14), 224, 14, (28, 14)),
        ((56, 28, 14, 7), 448, 28, (56, 28, 14, 7)),
        ((25, 13, 7), 200, 13, (13,)),
        ((7,), 224, 7, (7,)),
        ((32, 15), 32, 15, (15,)),
    ],
)
def test_layers_that_share_a_grid_are_chosen(
    sides: tuple[int, ...], image_size: int, grid: int, kept: tuple[int, ...]
) -> None:
    named = {f"tap{number}": side for number, side in enumerate(sides)}
    chosen = choose_taps(named, image_size)
    assert choose_grid(named, image_size) == grid
    assert tuple(named[name] for name in chosen) == kept
    assert choose_grid({name: named[name] for name in chosen}, image_size) == grid


def test_memory_is_bounded() -> None:
    _, maps = build_network()
    numbers = 8 * 8 * 8 + 4 * 4 * 8 + 2 * 2 * 8
    assert count_affordable(maps, SIDE) == 1_000_000_000 // (2 * numbers)


def test_those_who_teach_are_spread_evenly_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, maps = build_network()
    boxes = [np.empty((0, 4))] * 90
    assert choose_learned(boxes, maps, SIDE, 10).tolist() == list(range(90))
    monkeypatch.setattr("metal_defects.trust.locator_maps.MOST_LEARNED", 10)
    chosen = choose_learned(boxes, maps, SIDE, 10)
    assert len(chosen) == 10 and (chosen[0], chosen[-1]) == (0, 89)
    assert set(np.diff(chosen)) <= {9, 10}


def test_it_is_judged_beside_guesses(plates: tuple, features: dict, taught: dict[str, Locator]) -> None:
    heat, boxes = draw_maps(features, taught["boxes"]), plates[2]
    found = judge_locator(taught["boxes"], heat[30:], np.concatenate([heat[:30], heat[30:]]), boxes[:30], boxes[30:])
    assert found is not None
    assert (found.kind, found.trained_on, found.scores.images) == ("boxes", COUNT, COUNT - 30)
    assert found.scores.pointing.value > found.baselines.centre.pointing.value
    none = [np.empty((0, 4))] * (COUNT - 30)
    assert judge_locator(taught["boxes"], heat[30:], heat, boxes[:30], none) is None


def test_boxes_teach_where_the_patch_is(plates: tuple, features: dict, taught: dict[str, Locator]) -> None:
    heat = draw_maps(features, taught["boxes"])
    assert heat.shape == (COUNT, 8, 8)
    assert heat.min() >= 0
    assert heat.max() <= 1
    scores = score_maps(heat, plates[2], taught["boxes"].threshold, taught["boxes"].box_threshold)
    assert taught["boxes"].kind == "boxes"
    assert scores.pointing.value > 0.9
    assert scores.iou.value > 0.5
    assert scores.ap50.value > 0.5


def test_labels_alone_point_at_what_tells_the_classes_apart(taught: dict[str, Locator]) -> None:
    random = np.random.default_rng(0)
    labels, boxes = np.arange(60) % 3, []
    features = {tap: random.normal(0, 0.2, (60, side, side, 4)) for tap, side in (("shallow", 8), ("deep", 4))}
    for index, label in enumerate(labels):
        top, left = random.integers(0, 3, 2)
        features["shallow"][index, 2 * top : 2 * top + 4, 2 * left : 2 * left + 4, label] += 1
        features["deep"][index, top : top + 2, left : left + 2, label] += 1
        boxes.append(np.array([[left, top, left + 2, top + 2]]) / 4)
    locator = fit_locator({tap: one.astype(np.float16) for tap, one in features.items()}, labels, None, SIDE, 1)
    scores = score_maps(draw_maps(features, locator), boxes, locator.threshold, locator.box_threshold)
    assert locator.kind == taught["labels"].kind == "labels"
    assert scores.pointing.value > 0.9
    assert scores.iou.value > 0.5


def test_too_few_boxes_leave_it_to_the_labels(plates: tuple, features: dict) -> None:
    _, labels, boxes = plates
    few = [each if index < 5 else np.empty((0, 4)) for index, each in enumerate(boxes)]
    assert fit_locator(features, labels, few, SIDE, 1).kind == "labels"


def test_the_same_seed_gives_the_same_locator(plates: tuple, features: dict, taught: dict[str, Locator]) -> None:
    again = fit_locator(features, plates[1], plates[2], SIDE, 1)
    assert all(np.array_equal(*pair) for pair in zip(again.weights, taught["boxes"].weights, strict=True))


@pytest.mark.parametrize("kind", ["boxes", "labels"])
def test_the_graph_draws_the_same_map(
    kind: str, plates: tuple, features: dict, taught: dict[str, Locator], tmp_path: Path
) -> None:
    import keras
    import onnxruntime

    np.savez(tmp_path / "answer.npz", **taught[kind].to_arrays())
    with np.load(tmp_path / "answer.npz", allow_pickle=False) as stored:
        locator = Locator.from_arrays(dict(stored))
    assert (locator.kind, locator.taps, locator.grid) == (kind, ("tap2", "tap3", "tap4"), 4)
    assert (locator.threshold, locator.box_threshold) == (taught[kind].threshold, taught[kind].box_threshold)
    pixels, maps = build_network()
    model = keras.Model(pixels, locator_layers(maps, locator))
    images = plates[0][:5]
    expected = model(images, training=False).numpy()
    model.export(str(tmp_path / "graph.onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    assert np.allclose(found, expected, atol=1e-5)
    assert np.allclose(found, draw_maps(features, taught[kind])[:5], atol=2e-2)


def test_examples_are_drawn(plates: tuple, features: dict, taught: dict[str, Locator], tmp_path: Path) -> None:
    images, _, boxes = plates
    heat = draw_maps(features, taught["boxes"])
    names = [f"plate_{index}" for index in range(5)]
    figure = draw_locations(images[:5], heat[:5], boxes[:5], names, 0.5, tmp_path / "where.png", "Plates")
    assert (tmp_path / "where.png").stat().st_size > 5000
    assert sum(len(axes.patches) > 0 for axes in figure.axes) >= 5
    with pytest.raises(ValueError, match="equally many"):
        draw_locations(images[:5], heat[:4], boxes[:5], names, 0.5, tmp_path / "no.png", "Plates")
