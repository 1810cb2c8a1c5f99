"""Whether fine-tuning pays: why it is not tried, what boxes teach, and when the frozen backbone gives way."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.toy_network import CLASSES, COUNTS, SIDE, TOY, write_snapshots

from metal_defects.config import Settings
from metal_defects.data.manifest import ManifestRow, NamedBox
from metal_defects.data.snapshots import ClassLabels, load_labels
from metal_defects.evaluation import fine_tuning_trial
from metal_defects.evaluation.fine_tuning_trial import FEWEST_BOXED, cover_classes, try_fine_tuning
from metal_defects.models import specs
from metal_defects.models.fine_tuning import FineTuned, MapExamples
from metal_defects.models.results import FineTuning, ModelEntry
from metal_defects.models.specs import TunedBlocks
from metal_defects.models.trainers import Fitted, FrozenTrainer
from metal_defects.models.training import Training

SQUARE = ClassLabels(classes=CLASSES, image_size=SIDE, fit="stretch")


def make_row(label: str, *boxes: tuple[int, int, int, int, str], group: str = "a") -> ManifestRow:
    """An image of 20 pixels in height and 40 in width."""
    named = tuple(NamedBox(left=b[0], top=b[1], right=b[2], bottom=b[3], label=b[4]) for b in boxes)
    return ManifestRow(path="a", label=label, split="train", sha256="", group=group, width=40, height=20, boxes=named)


def make_trainer(
    name: str, settings: Settings, tmp_path: Path, weights: str = "ImageNet", snapshots: Path | None = None
) -> FrozenTrainer:
    params = settings.params
    training = Training(1, SIDE, params.model_builder, params.training, snapshots or tmp_path, tmp_path / "banks")
    known = {"title": name, "kind": "frozen", "weights_file": None, "weights_sha256": None}
    numbers = {"gmacs": 0.5, "parameters": 1, "trainable_parameters": 1}
    return FrozenTrainer(ModelEntry(name=name, weights=weights, **known, **numbers), training)


@pytest.mark.parametrize(
    ("name", "weights", "wanted", "accuracy", "reason"),
    [
        ("resnet18", "ImageNet", "false", 0.5, r"It was not wanted \(training\.fine_tune\)\."),
        ("vgg16", "ImageNet", "true", 0.5, "It is not offered for VGG16."),
        ("resnet18", "random", "true", 0.5, "weights are random: a baseline is left as it is"),
        (
            "resnet18",
            "ImageNet",
            "auto",
            0.98,
            r"98\.0% of the images rightly.*no less than 98\.0%",
        ),
        ("resnet18", "ImageNet", "auto", 1.0, r"training\.fine_tune_below"),
    ],
)
def test_why_it_is_not_tried(
    name: str, weights: str, wanted: str, accuracy: float, reason: str, make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Nothing is computed then: there are no snapshots here to read."""
    trainer = make_trainer(name, make_settings(f"training.fine_tune={wanted}"), tmp_path, weights)
    frozen: Any = None
    tuned, found = try_fine_tuning(trainer, frozen, accuracy, [], lambda *_: [], tmp_path, tmp_path)
    assert tuned is None
    assert found == FineTuning(reason=found.reason)
    assert re.search(reason, found.reason)


def test_cells_are_covered_by_the_boxes_of_their_class() -> None:
    rows = [make_row("Left", (0, 0, 20, 10, "Left"), (30, 0, 40, 20, "Right"))]
    [cells] = cover_classes(rows, SQUARE, grid=4)
    assert cells.dtype == np.float32 and cells.shape == (4, 4, 3)
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[:2, :2], right[:, 3] = 1, 1
    assert np.allclose(cells[:, :, 0], left)
    assert np.allclose(cells[:, :, 1], right)
    assert not cells[:, :, 2].any()


def test_a_cell_that_is_covered_in_part_gets_its_share() -> None:
    [cells] = cover_classes([make_row("Left", (0, 0, 10, 5, "Left"))], SQUARE, grid=2)
    assert cells[0, 0, 0] == pytest.approx(0.25)


def test_images_without_a_box_are_unknown_where_others_of_their_class_have_one_and_empty_else() -> None:
    rows = [make_row("Left", (0, 0, 20, 10, "Left")), make_row("Left"), make_row("Right")]
    boxed, unknown, never = cover_classes(rows, SQUARE, grid=4)
    assert np.isfinite(boxed).all() and boxed.any()
    assert np.isnan(unknown).all()
    assert not never.any()


def draw_shares(right: float, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Answers that give so much to the true class, a little more or less from image to image."""
    labels = np.arange(rows) % 3
    own = right + 0.02 * np.sin(np.arange(rows))
    shares = np.repeat(((1 - own) / 2)[:, None], 3, axis=1)
    shares[np.arange(rows), labels] = own
    return shares, labels


@pytest.mark.parametrize(("frozen", "tuned", "kept"), [(0.6, 0.9, True), (0.9, 0.6, False), (0.6, 0.6, False)])
def test_it_is_kept_where_it_is_better_on_the_same_images(frozen: float, tuned: float, kept: bool) -> None:
    (before, labels), (after, _) = draw_shares(frozen), draw_shares(tuned)
    found = fine_tuning_trial._compare(before, after, labels, np.arange(len(labels)), minutes=3.14)
    losses = [-np.log(shares[np.arange(len(labels)), labels]) for shares in (before, after)]
    gains = losses[0] - losses[1]
    assert found.kept == kept
    assert found.gain == pytest.approx(gains.mean())
    assert found.gain_error == pytest.approx(gains.std(ddof=1) / np.sqrt(len(labels)))
    assert (found.images, found.minutes) == (40, 3.1)
    assert (found.frozen_accuracy, found.accuracy) == (1.0, 1.0)
    assert ("more than one standard error" in found.reason) == (tuned >= frozen)
    assert ("higher" in found.reason) == (tuned < frozen)


def test_a_gain_by_a_few_images_is_not_enough() -> None:
    before, labels = draw_shares(0.6)
    after = before.copy()
    after[0] = np.eye(3)[labels[0]]
    after[3] = [0.4, 0.5, 0.1]
    found = fine_tuning_trial._compare(before, after, labels, np.arange(len(labels)), minutes=1)
    assert found.gain is not None and found.gain_error is not None
    assert found.kept == (found.gain > found.gain_error)
    assert not found.kept


@pytest.fixture
def try_toy(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Fitted | None, FineTuning, list[MapExamples]]]:
    """Tries it on the toy with training replaced; gives what it was taught, too."""
    monkeypatch.setitem(specs.BACKBONES, "toy", replace(TOY, tuned_blocks=TunedBlocks("shallow", ("deep",))))
    snapshots = write_snapshots(tmp_path / "snapshots")
    labels = {split: load_labels(snapshots, split) for split in COUNTS}
    trainer = make_trainer("toy", make_settings("training.fine_tune=true"), tmp_path, snapshots=snapshots)

    def run(result: str, boxes: bool = False) -> tuple[Fitted | None, FineTuning, list[MapExamples]]:
        taught: list[MapExamples] = []

        def learn(_backbone: Any, _network: Any, train: MapExamples, valid: MapExamples, *_: Any) -> FineTuned | None:
            taught.extend((train, valid))
            return None if result == "too long" else FineTuned(SimpleNamespace(), {"loss": [1.0]}, 2.0)

        def predict(_model: Any, dataset: Any) -> np.ndarray:
            right = labels["valid"] if int(dataset.cardinality()) == COUNTS["valid"] else labels["test"]
            sure = 0.9 if result == "better" else 0.4
            return np.where(np.eye(3)[right] == 1, sure + 0.01 * np.arange(len(right))[:, None], 0.05)

        monkeypatch.setattr(fine_tuning_trial, "fine_tune", learn)
        monkeypatch.setattr(fine_tuning_trial, "predict_images", predict)
        box = ((0, 0, 20, 10, "Left"),) if boxes else ()
        rows = [
            [make_row(CLASSES[label], *box, group=str(number)) for number, label in enumerate(labels[split])]
            for split in ("train", "valid")
        ]
        frozen = Fitted({}, lambda split: np.where(np.eye(3)[labels[split]] == 1, 0.6, 0.2), SimpleNamespace)
        tuned, found = try_fine_tuning(trainer, frozen, 0.9, rows, lambda *_: [], tmp_path, tmp_path)
        return tuned, found, taught

    return run


def test_the_blocks_are_taught_with_the_maps_in_front_of_them(try_toy: Callable) -> None:
    tuned, found, (train, valid) = try_toy("better")
    assert tuned is not None and found.kept and found.images == COUNTS["valid"]
    assert train.maps.shape == (COUNTS["train"], SIDE, SIDE, 4) and train.maps.dtype == np.float16
    assert valid.maps.shape[0] == COUNTS["valid"] and len(valid.labels) == COUNTS["valid"]
    assert train.cells is None and valid.cells is None
    assert tuned.predict("valid").argmax(1).tolist() == valid.labels.tolist()


def test_what_is_no_better_is_dropped_and_what_takes_too_long_never_begun(try_toy: Callable) -> None:
    tuned, found, _ = try_toy("worse")
    assert tuned is None and not found.kept and found.gain is not None and found.gain < 0
    tuned, found, _ = try_toy("too long")
    assert tuned is None
    assert found == FineTuning(reason="It would take more than 12 minutes (training.fine_tune_minutes).")


def test_boxes_teach_where_there_are_enough(try_toy: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTS["train"] + COUNTS["valid"] < FEWEST_BOXED
    assert try_toy("better", boxes=True)[2][0].cells is None
    monkeypatch.setattr(fine_tuning_trial, "FEWEST_BOXED", 15)
    train, valid = try_toy("better", boxes=True)[2]
    assert train.cells is not None and train.cells.shape == (COUNTS["train"], 15, 15, 3)
    assert valid.cells is not None and valid.cells.shape == (COUNTS["valid"], 15, 15, 3)


def test_cells_are_covered_where_the_square_shows_what_the_boxes_hold() -> None:
    known = {"split": "train", "sha256": "", "group": "a", "width": 64, "height": 32}
    box = NamedBox(left=0, top=8, right=32, bottom=16, label="Dent")
    rows = [
        ManifestRow(path="a", label="Dent", boxes=(box,), **known),
        ManifestRow(path="b", label="Dent", boxes=(), **known),
        ManifestRow(path="c", label="Good", boxes=(), **known),
    ]
    boxed = cover_classes(rows, ClassLabels(classes=("Dent", "Good"), image_size=64, fit="letterbox"), 8)
    expected = np.zeros((8, 8))
    expected[3, :4] = expected[0, :4] = 1  # the box, and its mirror image beyond the upper edge
    assert np.array_equal(boxed[0, :, :, 0], expected) and not boxed[0, :, :, 1].any()
    assert np.isnan(boxed[1]).all() and not boxed[2].any()
    stretched = cover_classes(rows, ClassLabels(classes=("Dent", "Good"), image_size=64, fit="stretch"), 8)
    assert np.argwhere(stretched[0, :, 0, 0]).ravel().tolist() == [2, 3]
