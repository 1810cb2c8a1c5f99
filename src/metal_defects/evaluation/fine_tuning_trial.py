"""Whether fine-tuning pays: it is tried where the frozen backbone falls short, and kept where it is better for sure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_defects.config import AugmentationParams, TrainingParams
from metal_defects.data.geometry import Frame
from metal_defects.data.manifest import ManifestRow
from metal_defects.data.snapshots import ClassLabels, load_class_labels, load_snapshot, read_images
from metal_defects.evaluation.significance import standard_error
from metal_defects.metrics import image_losses
from metal_defects.models.augmentation import augment, make_mild
from metal_defects.models.feature_maps import extract_maps
from metal_defects.models.fine_tuning import MapExamples, fine_tune
from metal_defects.models.networks import open_trunk
from metal_defects.models.results import FineTuning
from metal_defects.models.specs import TunedBlocks
from metal_defects.models.trainers import Fitted, FrozenTrainer
from metal_defects.models.training import MakeCallbacks, predict_images
from metal_defects.trust.locator_targets import cover_cells

# Images with boxes, below which these teach the cells nothing that the labels do not.
FEWEST_BOXED = 20
# Augmented views of a training image, besides the eight symmetries of its maps.
VIEWS = 2


def try_fine_tuning(
    trainer: FrozenTrainer,
    frozen: Fitted,
    accuracy: float,
    images: Sequence[Sequence[ManifestRow]],
    make_callbacks: MakeCallbacks,
    folder: Path,
    scratch: Path,
) -> tuple[Fitted | None, FineTuning]:
    """The fine-tuned network, None where the frozen one stays, and why.

    Args:
        trainer: of the backbone.
        frozen: the best head on the frozen backbone.
        accuracy: of it, in cross-validation.
        images: of the training split and of the validation split, with their boxes.
        make_callbacks: gives the callbacks.
        folder: for checkpoints and logs.
        scratch: folder for feature maps.
    """
    params = trainer.training.training
    if obstacle := _find_obstacle(trainer, params, accuracy):
        return None, FineTuning(reason=obstacle)
    train, valid = _gather(trainer, images, scratch)
    network, weights = trainer.build_network(), trainer.weights
    seed = trainer.training.seed
    tuned = fine_tune(trainer.backbone, network, train, valid, weights, params, make_callbacks, folder, seed)
    if tuned is None:
        most = params.fine_tune_minutes
        return None, FineTuning(reason=f"It would take more than {most:g} minutes (training.fine_tune_minutes).")

    def predict(split: str) -> np.ndarray:
        return predict_images(tuned.model, load_snapshot(trainer.training.snapshots, split))

    groups = np.array([row.group for row in images[1]])
    found = _compare(frozen.predict("valid"), predict("valid"), valid.labels, groups, tuned.minutes)
    return (Fitted(tuned.history, predict, lambda: tuned.model) if found.kept else None), found


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
            f"The frozen backbone names {accuracy:.1%} of the images rightly in cross-validation, no less than "
            f"{params.fine_tune_below:.1%} (training.fine_tune_below)."
        )
    return None


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
    cells: np.ndarray | None = None
    rows = [row for split in images for row in split]
    if sum(bool(row.boxes) for row in rows) >= FEWEST_BOXED:
        shape = load_class_labels(trainer.training.snapshots)
        cells = cover_classes(rows, shape, max(_sides(trainer, blocks)))
    views = tuple(maps[first : first + count] for first in range(len(read), len(viewed), count))
    known, held_out = (None, None) if cells is None else (cells[:count], cells[count:])
    train = MapExamples(maps[:count], trainer.labels["train"], known, views)
    return train, MapExamples(maps[count : len(read)], trainer.labels["valid"], held_out)


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

    def _make(self, number: int) -> np.ndarray:
        if number < len(self.images):
            return self.images[number]
        view, index = divmod(number - len(self.images), self.count)
        return augment(self.images[index], self.augmentation, (self.seed, 1 + view, index))


def _sides(trainer: FrozenTrainer, blocks: TunedBlocks) -> list[int]:
    return [trainer.network.get_layer(name).output.shape[1] for name in blocks.ends]


def cover_classes(rows: Sequence[ManifestRow], shape: ClassLabels, grid: int) -> np.ndarray:
    """Share of each cell that boxes of each class cover, float32 (images, grid, grid, classes).

    An image without a box is NaN, because nobody knows whether it was annotated; of a class none of whose images has a
    box there is nothing to draw, so its cells are 0.

    Args:
        rows: of the images.
        shape: the classes, and how the images became squares.
        grid: cells per side.
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
                cells[index, :, :, place] = cover_cells(frame.to_square(row.box_shares[own]), grid)
    return cells


def _compare(
    frozen: np.ndarray, tuned: np.ndarray, labels: np.ndarray, groups: np.ndarray, minutes: float
) -> FineTuning:
    """Both on the same validation images: the fine-tuned network must be better by more than a standard error."""
    gains = image_losses(labels, frozen) - image_losses(labels, tuned)
    gain, error = float(gains.mean()), standard_error(gains, groups)
    kept = gain > error
    difference = f"{gain:.4f} ± {error:.4f} lower (paired), {'more' if kept else 'not more'} than one standard error"
    if gain < 0:
        difference = f"{-gain:.4f} ± {error:.4f} higher (paired)"
    return FineTuning(
        kept=kept,
        reason=f"On {len(labels)} validation images its log loss is {difference}.",
        minutes=round(minutes, 1),
        images=len(labels),
        frozen_accuracy=float((frozen.argmax(axis=1) == labels).mean()),
        accuracy=float((tuned.argmax(axis=1) == labels).mean()),
        gain=gain,
        gain_error=error,
    )
