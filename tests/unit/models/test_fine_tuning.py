"""Fine-tuning on a network of a few weights: it finds a defect of a few pixels wherever it is, and saves what it is."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import PROJECT
from support.toy_network import SIDE, TOY

from metal_defects.config import TrainingParams, load_settings
from metal_defects.models import fine_tuning, specs
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.fine_tuning import FineTuned, MapExamples, build_evidence_head, fine_tune
from metal_defects.models.networks import build_backbone, open_trunk
from metal_defects.models.onnx_export import export_float32
from metal_defects.models.specs import TunedBlocks
from metal_defects.trust.answer import AnswerParts, build_answer_model, open_model
from metal_defects.trust.calibration import Scaling

if TYPE_CHECKING:
    import keras

GRID, COUNT = 8, 120
EPOCHS = 20
# Whether its weights stay as they are.
LAYERS = {"first": True, "second": False, "depthwise": True, "third": False}


def build_toy(image_size: int) -> "keras.Model":
    """As the other toy, with maps of 8 and 4 cells per side behind the layer in front."""
    import keras
    from keras import layers

    pixels = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", name="first")(pixels)
    x = layers.ReLU(name="shallow")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="second")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="second_norm")(x)
    x = layers.ReLU(name="shallow_end")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="third")(x)
    x = layers.ReLU(name="deep")(x)
    return keras.Model(pixels, x, name="toy_net")


def draw_plates(seed: int, count: int = COUNT) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy plates uint8; labels: no defect, a bright square of 3 pixels, a dark one; cells that it covers."""
    random = np.random.default_rng(seed)
    images = random.integers(100, 156, (count, SIDE, SIDE, 3)).astype(np.uint8)
    labels, cells = np.arange(count) % 3, np.zeros((count, GRID, GRID, 3), np.float32)
    for image, label, cover in zip(images, labels, cells, strict=True):
        top, left = random.integers(0, SIDE - 3, 2)
        if label:
            image[top : top + 3, left : left + 3] = 255 if label == 1 else 0
            cover[top // 4 : (top + 2) // 4 + 1, left // 4 : (left + 2) // 4 + 1, label] = 1
    return images, labels.astype(np.int32), cells


TUNED_ROW = replace(
    TOY, build=build_toy, taps=("shallow", "deep"), tuned_blocks=TunedBlocks("shallow", ("shallow_end", "deep"))
)


@pytest.fixture(scope="module", autouse=True)
def toy_row() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(specs.BACKBONES, "toy", TUNED_ROW)
        yield


@pytest.fixture(scope="module")
def params() -> TrainingParams:
    short = (f"fine_tune_epochs={EPOCHS}", "fine_tune_learning_rate=0.01", "from_scratch.batch_size=12")
    return load_settings(PROJECT, [f"training.{text}" for text in short], environment={}).params.training


def learn(
    folder: Path, params: TrainingParams, with_cells: bool = False, network: "keras.Model | None" = None
) -> FineTuned:
    network = network or build_backbone(TUNED_ROW, SIDE, 1, None)
    pixels, (start,) = open_trunk(TUNED_ROW, network, ("shallow",))
    parts = []
    for number, count in ((1, COUNT), (2, 30)):
        images, labels, cells = draw_plates(number, count)
        maps = extract_maps(pixels, {"shallow": start}, images, folder / f"maps_{number}")["shallow"]
        parts.append(MapExamples((maps,), labels, (cells,) if with_cells else None))

    def call_back_never(*_: Any) -> list:
        return []

    rest = (np.ones(3, np.float32), params, params.fine_tune_epochs, call_back_never, folder / "logs", "Learning", 1)
    return fine_tune(TUNED_ROW, network, *parts, *rest)


@pytest.fixture(scope="module")
def tuned(params: TrainingParams, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """Taught by labels alone."""
    network = build_backbone(TUNED_ROW, SIDE, 1, None)
    before = {name: network.get_layer(name).get_weights()[0].copy() for name in LAYERS}
    found = learn(tmp_path_factory.mktemp("labels"), params, network=network)
    same = {name: np.array_equal(network.get_layer(name).get_weights()[0], one) for name, one in before.items()}
    assert same == LAYERS, "the blocks alone are trained, without their depthwise kernels"
    return found


def test_a_defect_of_three_pixels_is_found_wherever_it_is(tuned: FineTuned) -> None:
    images, labels, _ = draw_plates(7)
    answers = tuned.model.predict(images, verbose=0)
    assert np.allclose(answers.sum(1), 1, atol=1e-5)
    assert (answers.argmax(1) == labels).mean() > 0.85
    assert len(tuned.history["val_loss"]) == EPOCHS


def test_labels_alone_teach_the_cells_where_the_defect_is(tuned: FineTuned) -> None:
    import keras

    opened = open_model(tuned.model)
    assert opened.evidence is not None and opened.evidence.shape[1:] == (GRID, GRID, 3)
    images, labels, cells = draw_plates(8)
    evidence = keras.Model(opened.pixels, opened.evidence).predict(images, verbose=0)
    hits = []
    for row in np.flatnonzero(labels):
        strongest = np.unravel_index(evidence[row, :, :, labels[row]].argmax(), (GRID, GRID))
        near = np.argwhere(cells[row, :, :, labels[row]])
        hits.append(np.abs(near - strongest).max(axis=1).min() <= 1)
    assert np.mean(hits) > 0.5, "a cell at random is near one in at most a quarter of the images"


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_saved_network_answers_as_the_trained_one(suffix: str, tuned: FineTuned, tmp_path: Path) -> None:
    import keras

    images = draw_plates(9, 12)[0]
    tuned.model.save(tmp_path / f"model.{suffix}", include_optimizer=False)
    again = keras.models.load_model(tmp_path / f"model.{suffix}", compile=False)
    assert np.allclose(again(images), tuned.model(images), atol=1e-6)
    assert open_model(again).evidence is not None


def test_the_exported_graph_answers_as_the_network_with_its_logits_scaled(tuned: FineTuned, tmp_path: Path) -> None:
    import onnxruntime

    images = draw_plates(10, 12)[0]
    plain = tuned.model(images).numpy()
    parts = AnswerParts(Scaling(temperature=2.0, bias=(0.5, 0.0, -0.5)))
    model = build_answer_model(tuned.model, parts)
    export_float32(model, parts.outputs, tmp_path / "answer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "answer.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: images})
    expected = np.sqrt(np.maximum(plain, 1e-30)) * np.exp([0.5, 0.0, -0.5])
    assert np.allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-4)
    assert np.allclose(tuned.model(images), plain, atol=1e-7), "the classifier itself stays as it was"


def test_boxes_teach_the_cells(params: TrainingParams, tmp_path: Path) -> None:
    import keras

    found = learn(tmp_path, params.model_copy(update={"fine_tune_epochs": 10}), with_cells=True)
    images, _, cells = draw_plates(11)
    opened = open_model(found.model)
    evidence = keras.Model(opened.pixels, opened.evidence).predict(images, verbose=0)
    assert evidence[cells == 1].mean() > evidence[cells == 0].mean() + 2


def test_images_whose_boxes_nobody_knows_teach_the_cells_nothing() -> None:
    """A batch gives them no weight, and cells without a NaN."""
    _, labels, cells = draw_plates(1, 4)
    cells[1] = np.nan
    examples = MapExamples((np.zeros((4, 16, 16, 6), np.float16),), labels, (cells,))
    [(maps, targets, shares)] = fine_tuning._make_batches(examples, np.array([1, 2, 4], np.float32), 4, None)
    assert np.ravel(shares["evidence"]).tolist() == [1, 0, 1, 1]
    assert np.isfinite(targets["evidence"]).all() and not np.any(targets["evidence"][1])
    assert np.array_equal(targets["evidence"][2], cells[2])
    assert shares["probabilities"].numpy().tolist() == [1, 2, 4, 1]
    assert targets["probabilities"].numpy().argmax(1).tolist() == labels.tolist()
    assert maps.dtype == "float32"


def test_maps_and_cells_are_turned_alike_by_each_symmetry_of_the_square() -> None:
    import tensorflow as tf

    square = tf.reshape(tf.range(2 * 9 * 2), (2, 3, 3, 2))
    turned = [fine_tuning._turn(square, tf.constant(number, tf.int64)).numpy() for number in range(8)]
    assert np.array_equal(turned[0], square)
    assert len({one.tobytes() for one in turned}) == 8
    assert all(sorted(one[1].ravel()) == sorted(np.ravel(square[1])) for one in turned)


def test_a_head_starts_with_the_vote_of_the_strongest_cell() -> None:
    head = build_evidence_head({"a": (16, 16, 8), "b": (8, 8, 4)}, 3)
    assert head.get_layer("evidence").output.shape == (None, 16, 16, 3)
    kernel, _ = head.get_layer("probabilities").get_weights()
    assert np.array_equal(kernel[:3], np.eye(3))


def test_the_pace_is_measured_on_a_few_steps(params: TrainingParams) -> None:
    _, labels, _ = draw_plates(1, 24)
    maps = np.random.default_rng(0).normal(size=(24, 16, 16, 6)).astype(np.float16)
    network = build_backbone(TUNED_ROW, SIDE, 1, None)
    seconds = fine_tuning.time_image(TUNED_ROW, network, MapExamples((maps,), labels), np.ones(3, np.float32), params)
    assert 0 < seconds < 1


def test_some_of_the_images_are_taken_without_a_copy() -> None:
    maps = np.arange(6, dtype=np.float16)[:, None, None, None] * np.ones((6, 2, 2, 1), np.float16)
    some = MapExamples((maps,), np.arange(6)).take(np.array([1, 4]))
    assert some.maps[0] is maps and some.rows.tolist() == [1, 4]
    [(seen, targets, shares)] = fine_tuning._make_batches(some, np.arange(6, dtype=np.float32), 4, None)
    assert seen[:, 0, 0, 0].numpy().tolist() == [1, 4]
    assert targets["probabilities"].numpy().argmax(1).tolist() == [1, 4]
    assert shares["probabilities"].numpy().tolist() == [1, 4]


def test_a_view_brings_its_own_cells() -> None:
    views = tuple(np.full((30, 2, 2, 1), number, np.float16) for number in range(3))
    cells = tuple(np.full((30, 2, 2, 1), number, np.float32) for number in range(3))
    examples = MapExamples(views, np.zeros(30, np.int32), cells)
    maps, covered = examples.draw(np.arange(30), seed=4)
    assert np.array_equal(maps, covered) and set(np.unique(maps)) == {0, 1, 2}
    clean, uncovered = examples.draw(np.arange(30), seed=0)
    assert not clean.any() and not uncovered.any()
