"""Whether fine-tuning pays: it is tried where the frozen backbone falls short, and kept where it is better for sure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from metal_defects.config import AugmentationParams, TrainingParams
from metal_defects.data.geometry import Frame
from metal_defects.data.manifest import ManifestRow
from metal_defects.data.snapshots import ClassLabels, load_class_labels, load_snapshot, read_images
from metal_defects.evaluation.cross_validation import OutOfFold, cross_validate_head
from metal_defects.evaluation.significance import standard_error
from metal_defects.files import atomic_path, read_json, write_json
from metal_defects.log import logger
from metal_defects.metrics import format_percent, image_losses
from metal_defects.models.augmentation import augment, augment_mask, make_mild
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.fine_tuning import FineTuned, MapExamples, fine_tune, time_image
from metal_defects.models.networks import open_trunk
from metal_defects.models.results import FineTuning
from metal_defects.models.specs import TunedBlocks
from metal_defects.models.trainers import Fitted, FrozenTrainer
from metal_defects.models.training import HeadRecipe, MakeCallbacks, predict_images
from metal_defects.trust.folds import count_groups
from metal_defects.trust.locator_targets import POINTS_PER_CELL, draw_boxes, share_cells

# Trainings that each leave some of the images out; their answers decide, and are what verdicts rest on.
FOLDS = 3
# With fewer the rate falls before anything was learnt.
FEWEST_EPOCHS = 8
# Judging an image costs so much of learning from it.
JUDGING_COST = 0.3
# Images with boxes, below which these teach the cells nothing that the labels do not.
FEWEST_BOXED = 20
# Augmented views of a training image, besides the eight symmetries of its maps.
VIEWS = 2


@dataclass(frozen=True)
class Kept:
    """A fine-tuned network that is better than the frozen one.

    Attributes:
        fitted: it, trained on all training images.
        out_of_fold: answers to these by networks like it that never saw them.
    """

    fitted: Fitted
    out_of_fold: OutOfFold


def try_fine_tuning(
    trainer: FrozenTrainer,
    recipe: HeadRecipe,
    accuracy: float,
    images: Sequence[Sequence[ManifestRow]],
    callbacks: tuple[MakeCallbacks, MakeCallbacks],
    folder: Path,
    resume: Path,
) -> tuple[Kept | None, FineTuning]:
    """The fine-tuned network, None where the frozen one stays, and why.

    Networks that each leave a third of the training images out answer these, and so do heads on the frozen backbone; as
    soon as the networks are no better it ends. Where they are better for sure, one more is trained on all images. How
    long it will take at most is measured on a few steps and said before.

    Args:
        trainer: of the backbone.
        recipe: of the best head on the frozen backbone.
        accuracy: of it, in cross-validation.
        images: of the training split and of the validation split, with their boxes.
        callbacks: make the callbacks of the network, and of those that are thrown away.
        folder: for checkpoints and logs.
        resume: folder that survives a crash, for feature maps and for what a training gave.
    """
    params = trainer.training.training
    if obstacle := _find_obstacle(trainer, params, accuracy):
        return None, FineTuning(reason=obstacle)
    groups = np.array([row.group for row in images[0]])
    if count_groups(trainer.labels["train"], groups).min() < 2:
        return None, FineTuning(reason="A class has one piece of surface alone: none of it could be left out to judge.")
    examples = _gather(trainer, images, resume)
    # An interrupted trial keeps to its own number.
    planned = resume / "epochs.json"
    epochs = int(read_json(planned)) if planned.exists() else _plan(trainer, *examples)
    if epochs < FEWEST_EPOCHS:
        most = params.fine_tune_minutes
        return None, FineTuning(reason=f"It would take more than {most:g} minutes (training.fine_tune_minutes).")
    write_json(planned, epochs)
    start, (for_network, for_trials) = time.monotonic(), callbacks
    frozen = cross_validate_head(trainer, recipe, groups, for_trials, resume / "heads", FOLDS)
    answers, found = _compare_left_out(trainer, examples, frozen, epochs, for_trials, resume)
    tuned = _train(trainer, *examples, epochs, for_network, folder, "Fine-tuning") if found.kept else None
    found = found.model_copy(update={"epochs": epochs, "minutes": round((time.monotonic() - start) / 60, 1)})
    if tuned is None:
        return None, found

    def predict(split: str) -> np.ndarray:
        return predict_images(tuned.model, load_snapshot(trainer.training.snapshots, split))

    return Kept(Fitted(tuned.history, predict, lambda: tuned.model), answers), found


def _find_obstacle(trainer: FrozenTrainer, params: TrainingParams, accuracy: float) -> str | None:
    """Why fine-tuning is not tried; None where it is."""
    if params.fine_tune is False:
        return "It was not wanted (training.fine_tune)."
    if trainer.backbone.tuned_blocks is None:
        return f"It is not offered for {trainer.backbone.title}."
    if trainer.entry.weights == "random":
        return "The backbone's weights are random: a baseline is left as it is."
    if params.fine_tune == "auto" and accuracy >= params.fine_tune_below:
        return (
            f"The frozen backbone names {format_percent(accuracy)} % of the images rightly in cross-validation, no "
            f"less than {100 * params.fine_tune_below:.1f} % (training.fine_tune_below)."
        )
    return None


def _plan(trainer: FrozenTrainer, train: MapExamples, valid: MapExamples) -> int:
    """Epochs that the minutes allow, which are announced."""
    params = trainer.training.training
    seconds = time_image(trainer.backbone, trainer.build_network(), train, trainer.weights, params)
    # All folds but one, for each of them, and then everything: as often as there are folds.
    seconds *= FOLDS * len(train.labels) + (FOLDS + 1) * JUDGING_COST * len(valid.labels)
    epochs = min(params.fine_tune_epochs, int(60 * params.fine_tune_minutes / seconds))
    if epochs >= FEWEST_EPOCHS:
        minutes = max(1.0, epochs * seconds / 60)
        logger.info(
            "   fine-tuning: %d trainings that leave some images out, as long as it helps, then one on all; %d epochs "
            "each, about %.0f minutes in all",
            FOLDS,
            epochs,
            minutes,
        )
    return epochs


def _train(
    trainer: FrozenTrainer,
    train: MapExamples,
    valid: MapExamples,
    epochs: int,
    make_callbacks: MakeCallbacks,
    folder: Path,
    title: str,
) -> FineTuned:
    params, seed = trainer.training.training, trainer.training.seed
    network, weights = trainer.build_network(), trainer.weigh(train.labels[train.rows])
    return fine_tune(
        trainer.backbone, network, train, valid, weights, params, epochs, make_callbacks, folder, title, seed
    )


def _compare_left_out(
    trainer: FrozenTrainer,
    examples: tuple[MapExamples, MapExamples],
    frozen: OutOfFold,
    epochs: int,
    make_callbacks: MakeCallbacks,
    resume: Path,
) -> tuple[OutOfFold, FineTuning]:
    """Answers to the training images by fine-tuned networks that never saw them, in the folds of the frozen heads.

    Those of a training that has ended are kept: an interrupted run does not do it again.
    """
    train, valid = examples
    answers, folds = replace(frozen, logits=np.zeros_like(frozen.logits)), frozen.folds[0]
    images = read_images(trainer.training.snapshots, "train")
    for number in range(int(folds.max()) + 1):
        left_out, file = np.flatnonzero(folds == number), resume / f"left_out_{number}.npy"
        if not file.exists():
            title, rest = f"Fine-tuning without part {number + 1}", train.take(np.flatnonzero(folds != number))
            tuned = _train(trainer, rest, valid, epochs, make_callbacks, resume / "logs" / file.stem, title)
            shares = tuned.model.predict(images[left_out], batch_size=32, verbose=0)
            with atomic_path(file) as partial, partial.open("wb") as stream:
                np.save(stream, np.log(np.maximum(shares, 1e-12)).astype(np.float32))
        answers.logits[0, left_out] = np.load(file)
        seen = np.flatnonzero(folds <= number)
        found = _compare(frozen.take(seen), answers.take(seen))
        if not found.helps:
            break
    return answers, found


def _gather(
    trainer: FrozenTrainer, images: Sequence[Sequence[ManifestRow]], scratch: Path
) -> tuple[MapExamples, MapExamples]:
    """What the blocks learn from, and what judges the epochs."""
    blocks = trainer.backbone.tuned_blocks
    assert blocks is not None
    pixels, (start,) = open_trunk(trainer.backbone, trainer.network, (blocks.start,))
    count = len(images[0])
    read = read_images(trainer.training.snapshots, "train", "valid")
    viewed = _ViewedImages(read, count, make_mild(trainer.training.training.augmentation), trainer.training.seed)
    maps = extract_maps(pixels, {blocks.start: start}, viewed, scratch / "maps")[blocks.start]
    views = (maps[first : first + count] for first in range(len(read), len(viewed), count))
    known = held_out = None
    if sum(bool(row.boxes) for split in images for row in split) >= FEWEST_BOXED:
        shape, grid = load_class_labels(trainer.training.snapshots), max(_sides(trainer, blocks))
        moves = (None, *(partial(viewed.rearrange, view) for view in range(VIEWS)))
        known = tuple(cover_classes(images[0], shape, grid, move) for move in moves)
        held_out = (cover_classes(images[1], shape, grid),)
    train = MapExamples((maps[:count], *views), trainer.labels["train"], known)
    return train, MapExamples((maps[count : len(read)],), trainer.labels["valid"], held_out)


@dataclass(frozen=True)
class _ViewedImages:
    """Images, and behind them VIEWS augmented views of the first of them, which are made when they are asked for.

    Attributes:
        images: uint8 (images, side, side, 3).
        count: how many of them have views.
        augmentation: what a view may change.
        seed: of the views.
    """

    images: np.ndarray
    count: int
    augmentation: AugmentationParams
    seed: int

    def __len__(self) -> int:
        return len(self.images) + VIEWS * self.count

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.stack([self._make(number) for number in range(*part.indices(len(self)))])

    def rearrange(self, view: int, index: int, mask: np.ndarray) -> np.ndarray:
        """Where a mask of an image, bool (side, side), lies in a view of it, float32 of 0 to 1."""
        levels = np.where(mask, np.uint8(255), np.uint8(0))[..., None]
        return augment_mask(levels, self.augmentation, self._seed(view, index))[..., 0] / np.float32(255)

    def _make(self, number: int) -> np.ndarray:
        if number < len(self.images):
            return self.images[number]
        view, index = divmod(number - len(self.images), self.count)
        return augment(self.images[index], self.augmentation, self._seed(view, index))

    def _seed(self, view: int, index: int) -> tuple[int, int, int]:
        return self.seed, 1 + view, index


def _sides(trainer: FrozenTrainer, blocks: TunedBlocks) -> list[int]:
    return [trainer.network.get_layer(name).output.shape[1] for name in blocks.ends]


def cover_classes(
    rows: Sequence[ManifestRow],
    shape: ClassLabels,
    grid: int,
    rearrange: Callable[[int, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Share of each cell that boxes of each class cover, float32 (images, grid, grid, classes).

    An image without a box is NaN, because nobody knows whether it was annotated; of a class none of whose images has a
    box there is nothing to draw, so its cells are 0.

    Args:
        rows: of the images.
        shape: the classes, and how the images became squares.
        grid: cells per side.
        rearrange: from an image's position and a mask of it, where that lies in a view of the image; None: as it is.
    """
    boxed = {row.label for row in rows if row.boxes}
    cells = np.zeros((len(rows), grid, grid, len(shape.classes)), np.float32)
    for index, row in enumerate(rows):
        if not row.boxes and row.label in boxed:
            cells[index] = np.nan
        frame = Frame.of(row.width, row.height, shape.image_size, shape.fit)
        for place, name in enumerate(shape.classes):
            own = [number for number, box in enumerate(row.boxes) if box.label == name]
            if own:
                mask = draw_boxes(frame.to_square(row.box_shares[own]), grid * POINTS_PER_CELL)
                cells[index, :, :, place] = share_cells(rearrange(index, mask) if rearrange else mask)
    return cells


def _compare(frozen: OutOfFold, tuned: OutOfFold) -> FineTuning:
    """Both on the same images: the fine-tuned networks must be better by more than a standard error."""
    labels, before, after = frozen.labels, frozen.mean_probabilities, tuned.mean_probabilities
    gains = image_losses(labels, before) - image_losses(labels, after)
    gain, error = float(gains.mean()), standard_error(gains, frozen.groups)
    kept = gain > error
    difference = f"{gain:.4f} ± {error:.4f} lower (paired), {'more' if kept else 'not more'} than one standard error"
    if gain < 0:
        difference = f"{-gain:.4f} ± {error:.4f} higher (paired)"
    return FineTuning(
        kept=kept,
        reason=f"On {len(labels)} training images, each left out, its log loss is {difference}.",
        images=len(labels),
        frozen_accuracy=float((before.argmax(axis=1) == labels).mean()),
        accuracy=float((after.argmax(axis=1) == labels).mean()),
        gain=gain,
        gain_error=error,
    )
