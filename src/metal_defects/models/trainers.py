"""The two ways of training a model, behind one interface: base training and every tuning trial use the same code."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from metal_defects.config import FromScratchParams, HyperparameterTuningParams
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.files import read_json
from metal_defects.models.feature_bank import count_views, load_or_extract
from metal_defects.models.networks import assemble, build_backbone, build_feature_model
from metal_defects.models.specs import BACKBONES
from metal_defects.models.training import (
    HeadRecipe,
    History,
    build_from_scratch,
    class_weights,
    fine_tune,
    fit_head,
    fit_network,
    predict_images,
    predict_probabilities,
    wants_fine_tuning,
)
from metal_defects.pipeline.runner import StageContext

if TYPE_CHECKING:
    import keras
    import keras_tuner

Values = dict[str, Any]


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        history: per epoch.
        predict: class probabilities of a split, float32 (images, classes).
        assemble: the model from uint8 pixels to probabilities.
        frozen_epochs: how many epochs of `history` came before fine-tuning; None where there was none.
    """

    history: History
    predict: Callable[[str], np.ndarray]
    assemble: "Callable[[], keras.Model]"
    frozen_epochs: int | None = None


class Trainer(Protocol):
    """Fits one model with given hyperparameters."""

    details: dict[str, Any]

    def defaults(self) -> Values:
        """The hyperparameters of params.yaml."""

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        """Add the search space."""

    def fit(self, values: Values, folder: Path, title: str) -> Fitted:
        """Train with `values`; checkpoints and logs go to `folder`."""


def make_trainer(ctx: StageContext, entry: dict[str, Any]) -> Trainer:
    """The trainer for an entry of models.json."""
    return FrozenTrainer(ctx, entry) if entry["kind"] == "frozen" else ScratchTrainer(ctx, entry)


class FrozenTrainer:
    """A head on the feature bank of a frozen backbone."""

    def __init__(self, ctx: StageContext, entry: dict[str, Any]) -> None:
        self.params = ctx.settings.params
        self.snapshots = ctx.artifacts / "03_dataset_loader"
        self.name = entry["name"]
        self.backbone = BACKBONES[self.name]
        training = self.params.training
        weights_file = Path(entry["weights_file"]) if entry["weights_file"] else None
        image_size = self.params.data_preprocessing.image_size
        self.network = build_backbone(self.backbone, image_size, self.params.seed, weights_file)
        self.views = count_views(self.backbone, training.views, training.views_max_gmacs)
        self.bank = load_or_extract(
            ctx.feature_banks,
            self.snapshots,
            self.backbone,
            self.network,
            self.views,
            training.augmentation,
            self.params.seed,
        )
        self.labels = {split: load_labels(self.snapshots, split) for split in ("train", "valid")}
        self.weights = class_weights(self.labels["train"], _count_classes(self.snapshots), training.class_weights)
        self.fine_tuned = wants_fine_tuning(training.fine_tune)
        self.details = {"views": self.views, "fine_tuned": self.fine_tuned} | {
            key: self.bank.meta[key] for key in ("engine", "milliseconds_per_image")
        }

    def defaults(self) -> Values:
        builder, training = self.params.model_builder, self.params.training
        return {
            "taps": "default",
            "hidden_units": builder.hidden_units,
            "dropout": builder.dropout,
            "l2": builder.l2,
            "label_smoothing": training.label_smoothing,
            "learning_rate": training.learning_rate,
            "batch_size": training.batch_size,
            "views": self.views,
            "epochs": training.epochs,
        }

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        space.Choice("taps", list(params.taps))
        space.Choice("hidden_units", list(params.hidden_units))
        _declare_common(space, params)
        if self.views:
            space.Int("views", 0, self.views)

    def fit(self, values: Values, folder: Path, title: str) -> Fitted:
        values = self.defaults() | values
        recipe = HeadRecipe(**values | {"taps": self.backbone.choose_taps(values["taps"])})
        seed = self.params.seed
        data = (self.bank, self.labels, self.weights)
        head, history = fit_head(recipe, *data, self.params.callbacks, folder, title, seed)
        columns = self.bank.columns(recipe.taps)
        if self.fine_tuned:
            return self._fine_tune(head, history, recipe, folder, title)
        return Fitted(
            history=history,
            predict=lambda split: predict_probabilities(head, self.bank.clean(split, columns)),
            assemble=lambda: self._assemble(head, recipe),
        )

    def _assemble(self, head: "keras.Model", recipe: HeadRecipe) -> "keras.Model":
        return assemble(build_feature_model(self.backbone, self.network, recipe.taps), head, self.name)

    def _fine_tune(
        self, head: "keras.Model", history: History, recipe: HeadRecipe, folder: Path, title: str
    ) -> Fitted:
        # The trunk shares its weights with self.network: they are put back so that every fit starts alike.
        frozen = self.network.get_weights()
        model = self._assemble(head, recipe)
        trunk = model.get_layer(self.backbone.name)
        second = fine_tune(model, trunk, self.snapshots, self.weights, self.params, folder / "fine_tuning", title)
        copy = _clone(model)
        self.network.set_weights(frozen)
        joined = {name: values + second[name] for name, values in history.items() if name in second}
        return Fitted(
            history=joined,
            predict=lambda split: predict_images(copy, load_snapshot(self.snapshots, split)),
            assemble=lambda: copy,
            frozen_epochs=len(history["loss"]),
        )


class ScratchTrainer:
    """A whole network, trained from the snapshots with augmentation."""

    def __init__(self, ctx: StageContext, entry: dict[str, Any]) -> None:
        self.params = ctx.settings.params
        self.snapshots = ctx.artifacts / "03_dataset_loader"
        self.name = entry["name"]
        labels = load_labels(self.snapshots, "train")
        self.weights = class_weights(labels, _count_classes(self.snapshots), self.params.training.class_weights)
        self.details = {"views": 0, "fine_tuned": False, "engine": "TensorFlow", "milliseconds_per_image": None}

    def defaults(self) -> Values:
        builder, training = self.params.model_builder, self.params.training
        return {"dropout": builder.dropout, "l2": builder.l2} | training.from_scratch.model_dump()

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        _declare_common(space, params)
        if self.name == "custom_cnn":
            space.Choice("filters", list(params.filters))
            space.Choice("depth", list(params.depth))

    def fit(self, values: Values, folder: Path, title: str) -> Fitted:
        values = self.defaults() | values
        recipe = FromScratchParams(**{key: values.pop(key) for key in FromScratchParams.model_fields})
        model = build_from_scratch(self.name, self.params, len(self.weights), **values)
        history = fit_network(model, self.snapshots, self.weights, self.params, recipe, folder, title)
        return Fitted(
            history=history,
            predict=lambda split: predict_images(model, load_snapshot(self.snapshots, split)),
            assemble=lambda: model,
        )


def _declare_common(space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
    space.Float("dropout", *params.dropout)
    space.Float("l2", *params.l2, sampling="log")
    space.Choice("label_smoothing", list(params.label_smoothing))
    space.Float("learning_rate", *params.learning_rate, sampling="log")
    space.Choice("batch_size", list(params.batch_size))


def _clone(model: "keras.Model") -> "keras.Model":
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _count_classes(snapshots: Path) -> int:
    return len(read_json(snapshots / "class_labels.json")["classes"])
