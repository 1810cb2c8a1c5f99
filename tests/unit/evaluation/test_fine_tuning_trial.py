"""Whether fine-tuning pays: why it is not tried, what boxes teach, and when the frozen backbone gives way."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.toy_network import CLASSES, COUNTS, SIDE, TOY, write_snapshots

from metal_defects.config import Settings
from metal_defects.data.geometry import Frame
from metal_defects.data.manifest import ManifestRow, NamedBox
from metal_defects.data.snapshots import ClassLabels, load_labels
from metal_defects.evaluation import fine_tuning_trial
from metal_defects.evaluation.cross_validation import OutOfFold
from metal_defects.evaluation.fine_tuning_trial import (
    FEWEST_BOXED,
    FOLDS,
    VIEWS,
    Kept,
    _ViewedImages,
    cover_classes,
    try_fine_tuning,
)
from metal_defects.models import specs
from metal_defects.models.augmentation import make_mild
from metal_defects.models.fine_tuning import FineTuned, MapExamples
from metal_defects.models.results import FineTuning, ModelEntry
from metal_defects.models.specs import TunedBlocks
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import Training

LIMITS = ("training.fine_tune_minutes=30", "training.fine_tune_epochs=20")
NO_CALLBACKS = (lambda *_: [], lambda *_: [])
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
            0.99,
            r"99\.0 % of the images rightly.*no less than 99\.0 %",
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
    recipe: Any = None
    tuned, found = try_fine_tuning(trainer, recipe, accuracy, [], NO_CALLBACKS, tmp_path, tmp_path)
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


def test_boxes_go_with_their_image_into_its_views(make_settings: Callable[..., Settings]) -> None:
    """A bright box on black: wherever the view shows it, its cells are covered."""
    row = make_row("Left", (4, 12, 18, 18, "Left"))
    [box] = Frame.of(row.width, row.height, SIDE, "stretch").to_square(row.box_shares)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    left, top, right, bottom = np.rint(SIDE * box).astype(int)
    image[top:bottom, left:right] = 255
    calm = make_mild(make_settings().params.training.augmentation).model_copy(
        update={"brightness": 0.0, "contrast": 0.0, "blur_sigma": 0.0, "noise_sigma": 0.0}
    )
    seen = []
    for seed in range(12):
        viewed = _ViewedImages(image[None], 1, calm, seed)
        for view in range(VIEWS):
            [shown] = viewed[1 + view : 2 + view]
            cells = cover_classes([row], SQUARE, SIDE // 8, partial(viewed.rearrange, view))[0, :, :, 0]
            bright = shown[..., 0].reshape(SIDE // 8, 8, SIDE // 8, 8).mean(axis=(1, 3)) / 255
            assert np.abs(cells - bright).max() < 0.15
            seen.append(cells.tobytes())
    assert len(set(seen)) > 8


def draw_answers(right: float, rows: int = 40) -> OutOfFold:
    """Answers that give so much to the true class, a little more or less from image to image."""
    labels = np.arange(rows) % 3
    own = right + 0.02 * np.sin(np.arange(rows))
    shares = np.repeat(((1 - own) / 2)[:, None], 3, axis=1)
    shares[np.arange(rows), labels] = own
    return OutOfFold(labels, np.log(shares)[None], np.zeros((1, rows), np.int32), np.arange(rows))


@pytest.mark.parametrize(("frozen", "tuned", "kept"), [(0.6, 0.9, True), (0.9, 0.6, False), (0.6, 0.6, False)])
def test_it_is_kept_where_it_is_better_on_the_same_images(frozen: float, tuned: float, kept: bool) -> None:
    before, after = draw_answers(frozen), draw_answers(tuned)
    found = fine_tuning_trial._compare(before, after)
    losses = [-answers.logits[0, np.arange(40), answers.labels] for answers in (before, after)]
    gains = losses[0] - losses[1]
    assert found.kept == kept
    assert found.gain == pytest.approx(gains.mean())
    assert found.gain_error == pytest.approx(gains.std(ddof=1) / np.sqrt(40))
    assert found.images == 40
    assert (found.frozen_accuracy, found.accuracy) == (1.0, 1.0)
    assert ("more than one standard error" in found.reason) == (tuned >= frozen)
    assert ("higher" in found.reason) == (tuned < frozen)


def test_a_gain_by_a_few_images_is_not_enough() -> None:
    before, after = draw_answers(0.6), draw_answers(0.6)
    after.logits[0, 0] = np.log(np.maximum(np.eye(3)[0], 1e-9))
    after.logits[0, 3] = np.log([0.4, 0.5, 0.1])
    found = fine_tuning_trial._compare(before, after)
    assert found.gain is not None and found.gain_error is not None
    assert found.kept == (found.gain > found.gain_error)
    assert not found.kept


@dataclass
class Lesson:
    """What a training was given."""

    train: MapExamples
    valid: MapExamples
    epochs: int
    title: str


class ToyTrial:
    """Fine-tuning of the toy, with training replaced: a network names `sure` of the true class, or is interrupted."""

    def __init__(self, tmp_path: Path, settings: Settings, patch: pytest.MonkeyPatch) -> None:
        self.snapshots = write_snapshots(tmp_path / "snapshots")
        self.trainer = make_trainer("toy", settings, tmp_path, snapshots=self.snapshots)
        self.labels = {split: load_labels(self.snapshots, split) for split in COUNTS}
        self.lessons: list[Lesson] = []
        self.sure, self.seconds, self.ends_after = 0.999999, 0.01, 99
        self.folder = tmp_path
        patch.setattr(fine_tuning_trial, "fine_tune", self.learn)
        patch.setattr(fine_tuning_trial, "time_image", lambda *_: self.seconds)
        patch.setattr(fine_tuning_trial, "predict_images", lambda model, _: model.answer(self.labels["valid"]))

    def learn(
        self, _backbone: Any, _network: Any, train: MapExamples, valid: MapExamples, _weights: np.ndarray, _params: Any,
        epochs: int, _callbacks: Any, _folder: Path, title: str, _seed: int,
    ) -> FineTuned:  # fmt: skip
        if len(self.lessons) == self.ends_after:
            raise InterruptedError
        self.lessons.append(Lesson(train, valid, epochs, title))
        left_out = np.setdiff1d(np.arange(COUNTS["train"]), train.rows)

        def answer(labels: np.ndarray) -> np.ndarray:
            return np.where(np.eye(3)[labels] == 1, self.sure, (1 - self.sure) / 2)

        def predict(images: np.ndarray, **_: Any) -> np.ndarray:
            assert len(images) == len(left_out)
            return answer(self.labels["train"][left_out])

        return FineTuned(SimpleNamespace(answer=answer, predict=predict), {"loss": [1.0]})

    def run(self, boxes: bool = False, groups: Callable[[int], str] = str) -> tuple[Kept | None, FineTuning]:
        box = ((0, 0, 20, 10, "Left"),) if boxes else ()
        rows = [
            [make_row(CLASSES[label], *box, group=groups(number)) for number, label in enumerate(self.labels[split])]
            for split in ("train", "valid")
        ]
        recipe = self.trainer.read_recipe({"l2": 0.1, "views": "none"})
        return try_fine_tuning(self.trainer, recipe, 0.9, rows, NO_CALLBACKS, self.folder, self.folder)


@pytest.fixture
def trial(tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> ToyTrial:
    monkeypatch.setitem(specs.BACKBONES, "toy", replace(TOY, tuned_blocks=TunedBlocks("shallow", ("deep",))))
    return ToyTrial(tmp_path, make_settings(*LIMITS, "training.fine_tune=true", "training.views=[]"), monkeypatch)


def test_every_image_is_left_out_once_and_the_network_learns_from_all(trial: ToyTrial) -> None:
    kept, found = trial.run()
    assert kept is not None and found.kept and found.images == COUNTS["train"] and found.epochs == 20
    *parts, whole = trial.lessons
    assert len(parts) == FOLDS
    left_out = [np.setdiff1d(whole.train.rows, part.train.rows) for part in parts]
    assert np.array_equal(np.sort(np.concatenate(left_out)), np.arange(COUNTS["train"]))
    assert whole.train.rows.tolist() == list(range(COUNTS["train"]))
    for lesson in trial.lessons:
        assert len(lesson.train.maps) == 1 + fine_tuning_trial.VIEWS
        assert all(maps.shape == (COUNTS["train"], SIDE, SIDE, 4) for maps in lesson.train.maps)
        assert all(maps.dtype == np.float16 for maps in lesson.train.maps)
        assert [len(maps) for maps in lesson.valid.maps] == [len(lesson.valid.labels)] == [COUNTS["valid"]]
        assert lesson.train.cells is None and lesson.valid.cells is None
    answers = kept.out_of_fold
    assert answers.probabilities[0].argmax(1).tolist() == trial.labels["train"].tolist()
    assert all(len(np.unique(answers.folds[0][rows])) == 1 for rows in left_out)
    assert kept.fitted.predict("valid").argmax(1).tolist() == trial.labels["valid"].tolist()


def test_what_is_no_better_ends_after_the_first_training(trial: ToyTrial) -> None:
    trial.sure = 0.4
    kept, found = trial.run()
    assert kept is None and not found.kept and found.gain is not None and found.gain < 0
    assert len(trial.lessons) == 1 and found.images == COUNTS["train"] // FOLDS


def test_what_is_hardly_better_is_dropped_before_the_last_training(
    trial: ToyTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning_trial, "standard_error", lambda *_: 1e9)
    kept, found = trial.run()
    assert kept is None and not found.kept and found.helps
    assert len(trial.lessons) == FOLDS and found.images == COUNTS["train"]


def test_what_takes_too_long_is_never_begun(trial: ToyTrial) -> None:
    trial.seconds = 1e6
    kept, found = trial.run()
    assert kept is None and not trial.lessons
    assert found == FineTuning(reason="It would take more than 30 minutes (training.fine_tune_minutes).")


@pytest.mark.parametrize(("seconds", "epochs"), [(30 * 60 / 34.2 / 8.5, 8), (30 * 60 / 34.2 / 20.5, 20), (0.001, 20)])
def test_as_many_epochs_as_the_minutes_allow(seconds: float, epochs: int, trial: ToyTrial) -> None:
    """An epoch of all trainings shows 27 images, and judges 24 at three tenths of the cost."""
    trial.seconds = seconds
    assert trial.run()[1].epochs == epochs
    assert {lesson.epochs for lesson in trial.lessons} == {epochs}


def test_one_piece_of_a_class_cannot_be_left_out(trial: ToyTrial) -> None:
    kept, found = trial.run(groups=lambda _: "the same")
    assert kept is None and found == FineTuning(reason=found.reason) and "one piece of surface" in found.reason


def test_an_interrupted_trial_goes_on_where_it_was(trial: ToyTrial) -> None:
    trial.ends_after = 2
    with pytest.raises(InterruptedError):
        trial.run()
    trial.ends_after, trial.seconds = 99, 15 * 60 / 34.2 / 8.5
    kept, _ = trial.run()
    assert kept is not None
    assert {lesson.epochs for lesson in trial.lessons} == {20}, "also on a machine that has become slower"
    assert [lesson.title for lesson in trial.lessons[2:]] == ["Fine-tuning without part 3", "Fine-tuning"]


def test_boxes_teach_where_there_are_enough(trial: ToyTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTS["train"] + COUNTS["valid"] < FEWEST_BOXED
    trial.run(boxes=True)
    assert trial.lessons[-1].train.cells is None
    monkeypatch.setattr(fine_tuning_trial, "FEWEST_BOXED", 15)
    for part in trial.folder.glob("left_out_*"):
        part.unlink()
    trial.run(boxes=True)
    lesson = trial.lessons[-1]
    assert lesson.train.cells is not None and lesson.valid.cells is not None
    assert [cells.shape for cells in lesson.train.cells] == (1 + VIEWS) * [(COUNTS["train"], 15, 15, 3)]
    assert [cells.shape for cells in lesson.valid.cells] == [(COUNTS["valid"], 15, 15, 3)]


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
