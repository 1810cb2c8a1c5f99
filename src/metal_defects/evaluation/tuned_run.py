"""What stage 08 evaluates: the tuned model with its images, and heads like its own that never saw some of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.data.manifest import read_boxes, read_manifest
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.evaluation.cross_validation import OutOfFold, Predict, out_of_fold
from metal_defects.evaluation.split_results import read_image_rows
from metal_defects.files import read_json
from metal_defects.models.feature_bank import BATCH, FeatureBank, fastest_engine
from metal_defects.models.networks import pool_moments
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.models.training import (
    HeadRecipe,
    class_weights,
    fit_head,
    predict_images,
    predict_probabilities,
    wants_fine_tuning,
)
from metal_defects.pipeline.runner import StageContext
from metal_defects.trust.answer import OpenModel, open_model

if TYPE_CHECKING:
    import keras

HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Split:
    """The images of one split or of several, in the order of images.csv.

    Attributes:
        names: of the splits.
        labels: int32 (images,).
        groups: images of the same value are copies of one another, (images,).
        boxes: of each image, left, top, right, bottom as shares of its sides, (n, 4).
        box_classes: of each image, the class names of its boxes.
        sources: paths as in the manifest.
        pictures: paths under the folder of stage 02.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    boxes: list[np.ndarray]
    box_classes: list[list[str]]
    sources: list[str]
    pictures: list[str]


class Subject:
    """The tuned model of a run.

    Args:
        ctx: of the stage.

    Attributes:
        card: tuned_model.json.
        classes: names.
        entry: of models.json.
        folder: of the snapshots.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.folder = ctx.artifacts / "03_dataset_loader"
        self.card = read_json(ctx.artifacts / "07_hyperparameter_tuning" / "tuned_model.json")
        self.metrics = read_json(ctx.artifacts / "07_hyperparameter_tuning" / "metrics.json")
        self.classes: list[str] = self.card["classes"]
        self.entries = {entry["name"]: entry for entry in _read_entries(ctx)}
        self.entry = self.entries[self.metrics["name"]]

    @cached_property
    def model(self) -> "keras.Model":
        """tuned_model.h5."""
        import keras

        return keras.models.load_model(
            self.ctx.artifacts / "07_hyperparameter_tuning" / "tuned_model.h5", compile=False
        )

    @cached_property
    def opened(self) -> OpenModel:
        """The same, with its feature maps."""
        return open_model(self.model)

    @cached_property
    def trainer(self) -> FrozenTrainer:
        """Of a frozen backbone."""
        trainer = make_trainer(self.ctx, self.entry)
        assert isinstance(trainer, FrozenTrainer)
        return trainer

    @property
    def has_bank(self) -> bool:
        """Whether heads are trained on features: else cross-validation would cost as many trainings as folds."""
        fine_tune = self.ctx.settings.params.training.fine_tune
        return self.entry["kind"] == "frozen" and not wants_fine_tuning(fine_tune)

    def read(self, *names: str) -> Split:
        """What is known of the images of some splits."""
        manifest = read_manifest(self.ctx.artifacts / "01_data_ingestion" / "manifest.csv")
        preprocessed = self.ctx.artifacts / "02_data_preprocessing"
        rows = [row for name in names for row in read_image_rows(preprocessed, name)]
        known = [manifest[row["source"]] for row in rows]
        boxes = [read_boxes(row) for row in known]
        return Split(
            names,
            np.concatenate([load_labels(self.folder, name) for name in names]),
            np.array([row["group"] for row in known]),
            [one[0] for one in boxes],
            [one[1] for one in boxes],
            [row["source"] for row in rows],
            [row["path"] for row in rows],
        )

    def images(self, *names: str) -> np.ndarray:
        """uint8 (images, side, side, 3) of some splits."""
        pairs = [pair for name in names for pair in load_snapshot(self.folder, name).as_numpy_iterator()]
        return np.stack([image for image, _ in pairs])

    def answer_out_of_fold(self, train: Split) -> OutOfFold:
        """Logits of the training images by heads like the model's own that never saw them.

        A network without a bank answers the validation images instead, once, as one fold.
        """
        params = self.ctx.settings.params
        if not self.has_bank:
            labels = load_labels(self.folder, "valid")
            logits = _log(predict_images(self.model, load_snapshot(self.folder, "valid")))[None]
            return OutOfFold(labels, logits, np.zeros((1, len(labels)), np.int32))
        return out_of_fold(
            self.trainer.bank.features["train"],
            train.labels,
            train.groups,
            self._fit_head,
            params.model_evaluation.folds,
            params.model_evaluation.repeats,
            params.seed,
        )

    def _fit_head(self, features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, seed: int) -> Predict:
        """Train a head as stage 07 does, early stopping on the validation split included."""
        trainer, values = self.trainer, self.card["hyperparameters"]
        recipe = HeadRecipe(**values | {"taps": trainer.backbone.choose_taps(values["taps"])})
        columns = trainer.bank.columns(recipe.taps)
        parts = {"train": features, "valid": trainer.bank.features["valid"]}
        bank = FeatureBank(parts, trainer.bank.slices, trainer.bank.meta)
        weights = class_weights(labels, len(trainer.weights), self.ctx.settings.params.training.class_weights)
        targets = {"train": labels, "valid": trainer.labels["valid"]}
        quiet = {"tensorboard": False, "csv_logger": False}
        callbacks = self.ctx.settings.params.callbacks.model_copy(update=quiet)
        head, _ = fit_head(recipe, bank, targets, weights, callbacks, self.ctx.resume / "heads", "head", seed)
        return lambda rows: _log(predict_probabilities(head, rows[:, columns]))

    def columns(self) -> np.ndarray:
        """Of the bank: those that the model's head sees."""
        taps = self.trainer.backbone.choose_taps(self.card["hyperparameters"]["taps"])
        return self.trainer.bank.columns(taps)

    def moments(self, taps: tuple[str, ...]) -> np.ndarray:
        """Means and variances of the training images' feature maps, float32 (images, columns)."""
        if self.has_bank:
            return self.trainer.bank.clean("train", self.trainer.bank.columns(taps))
        import keras
        from keras import layers

        pooled = [part for tap in taps for part in pool_moments(self.opened.maps[tap], f"pooled_{tap}")]
        _, run = fastest_engine(keras.Model(self.opened.pixels, layers.Concatenate()(pooled)), self.ctx.out)
        images = self.images("train")
        return np.concatenate([run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)


def _read_entries(ctx: StageContext) -> list[dict[str, Any]]:
    return read_json(ctx.artifacts / "04_model_builder" / "models.json")["models"]
