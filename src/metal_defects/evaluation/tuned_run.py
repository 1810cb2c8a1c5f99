"""What stage 08 evaluates: the tuned model with its images, and heads like its own that never saw some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.data.geometry import Frame
from metal_defects.data.manifest import ImageRow, ManifestRow
from metal_defects.data.snapshots import load_snapshot, read_images
from metal_defects.evaluation.cross_validation import OutOfFold, cross_validate_head
from metal_defects.evaluation.fold_errors import ImageNames
from metal_defects.models.feature_bank import BATCH, fastest_engine
from metal_defects.models.pooling import pool
from metal_defects.models.results import Hyperparameters, ModelEntry, TunedCard
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.models.training import HeadRecipe, MakeCallbacks, Training, predict_images
from metal_defects.system import map_ordered
from metal_defects.trust.answer import OpenModel, open_model

if TYPE_CHECKING:
    import keras

HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Split:
    """What is known of the images of one split or of several, in the order of images.csv.

    Attributes:
        labels: int32 (images,).
        groups: images of the same value are copies of one another, (images,).
        boxes: of each image, left, top, right, bottom as shares of the square that the model sees, (n, 4).
        names: of the images.
    """

    labels: np.ndarray
    groups: np.ndarray
    boxes: list[np.ndarray]
    names: ImageNames


@dataclass(frozen=True)
class TunedRun:
    """The tuned model of a run, with what it was made of.

    Attributes:
        title: of the model.
        classes: names.
        values: hyperparameters that it was trained with.
        model: from uint8 pixels to probabilities.
        opened: the same, with its feature maps.
        trainer: of its head; None where more than that was trained, so that cross-validation would cost as many
            trainings as folds.
        answers: out of fold, of a fine-tuned network; None where stage 07 left none.
        training: what its fits had in common.
        make_callbacks: for fits whose head is thrown away.
        train, valid, test, held_out: images; the last are those of `HELD_OUT`.
        pixels: of the held-out images, uint8 (images, side, side, 3).
        scratch: folder for what may be lost.
    """

    title: str
    classes: tuple[str, ...]
    values: Hyperparameters
    model: "keras.Model"
    opened: OpenModel
    trainer: FrozenTrainer | None
    answers: OutOfFold | None
    training: Training
    make_callbacks: MakeCallbacks
    train: Split
    valid: Split
    test: Split
    held_out: Split
    pixels: np.ndarray
    scratch: Path

    @property
    def judged(self) -> Split:
        """The images that answers out of fold are about: of a network trained from scratch, those of validation."""
        return self.train if self.trainer or self.answers else self.valid


def open_tuned_run(
    card: TunedCard,
    entry: ModelEntry,
    training: Training,
    make_callbacks: MakeCallbacks,
    manifest: Sequence[ManifestRow],
    images: Sequence[ImageRow],
    model_file: Path,
    answers_file: Path,
    scratch: Path,
) -> TunedRun:
    """Load everything that is judged, once.

    Args:
        card: of the tuned model.
        entry: the base model that was tuned.
        training: what its fits had in common.
        make_callbacks: for fits whose head is thrown away.
        manifest, images: rows of all images.
        model_file: tuned_model.h5.
        answers_file: out_of_fold.npz.
        scratch: folder for what may be lost.
    """
    import keras

    model = keras.models.load_model(model_file, compile=False)
    trainer = None if card.fine_tuned else make_trainer(entry, training)
    known = {row.path: row for row in manifest}

    def describe(*splits: str) -> Split:
        rows = [row for split in splits for row in images if row.split == split]
        sources = [known[row.source] for row in rows]
        return Split(
            labels=np.array([card.classes.index(row.label) for row in rows], np.int32),
            groups=np.array([source.group for source in sources]),
            boxes=[_place_boxes(source, card) for source in sources],
            names=ImageNames(
                sources=[row.source for row in rows],
                pictures=[row.path for row in rows],
                other_boxes=[source.other_labels for source in sources],
            ),
        )

    return TunedRun(
        title=entry.title,
        classes=card.classes,
        values=card.hyperparameters,
        model=model,
        opened=open_model(model),
        trainer=trainer if isinstance(trainer, FrozenTrainer) else None,
        answers=OutOfFold.load(answers_file) if card.fine_tuned else None,
        training=training,
        make_callbacks=make_callbacks,
        train=describe("train"),
        valid=describe("valid"),
        test=describe("test"),
        held_out=describe(*HELD_OUT),
        pixels=read_images(training.snapshots, *HELD_OUT),
        scratch=scratch,
    )


def _place_boxes(source: ManifestRow, card: TunedCard) -> np.ndarray:
    """The boxes of an image, and of its mirror images, in the square that the model sees."""
    return Frame.of(source.width, source.height, card.image_size, card.fit).to_square(source.box_shares)


def answer_out_of_fold(run: TunedRun, folds: int, repeats: int) -> OutOfFold:
    """Logits of the training images by models like this one that never saw them.

    A network trained from scratch answers the validation images instead, once, as one fold.
    """
    if run.answers is not None:
        return run.answers
    if run.trainer is None:
        logits = _log(predict_images(run.model, load_snapshot(run.training.snapshots, "valid")))[None]
        return OutOfFold(run.valid.labels, logits, np.zeros(logits.shape[:2], np.int32), run.valid.groups)
    groups, logs = run.train.groups, run.scratch / "heads"
    return cross_validate_head(run.trainer, read_recipe(run), groups, run.make_callbacks, logs, folds, repeats)


def read_recipe(run: TunedRun) -> HeadRecipe:
    """How the model's head was fitted.

    Raises:
        ValueError: the whole network was trained, so that there is none.
    """
    if run.trainer is None:
        raise ValueError(f"{run.title} has no head on a feature bank.")
    return run.trainer.read_recipe(run.values)


def measure_moments(run: TunedRun, taps: tuple[str, ...]) -> np.ndarray:
    """Means and variances of the training images' feature maps, float32 (images, columns)."""
    if run.trainer is not None:
        return run.trainer.bank.clean("train", run.trainer.bank.columns(taps))
    import keras
    from keras import layers

    pooled = [part for tap in taps for part in pool(run.opened.maps[tap], f"pooled_{tap}")]
    _, extract = fastest_engine(keras.Model(run.opened.pixels, layers.Concatenate()(pooled)), run.scratch)
    images = read_images(run.training.snapshots, "train")
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return np.concatenate(list(map_ordered(extract, batches)))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)
