"""The two ways of training a model, behind one interface: base training and every tuning trial use the same code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from metal_defects.config import FromScratchParams, HyperparameterTuningParams, ViewKind
from metal_defects.data.snapshots import load_class_labels, load_labels, load_snapshot
from metal_defects.metrics import image_losses
from metal_defects.models.feature_bank import FeatureBank, choose_views, load_or_extract
from metal_defects.models.linear_head import FINAL_TOLERANCE, TRIAL_TOLERANCE
from metal_defects.models.network_training import fit_network
from metal_defects.models.networks import (
    assemble,
    build_backbone,
    build_feature_model,
    build_from_scratch,
    count_multiply_adds,
)
from metal_defects.models.results import Hyperparameters, ModelEntry
from metal_defects.models.specs import BACKBONES, Network, find_spec
from metal_defects.models.training import (
    Examples,
    HeadRecipe,
    History,
    MakeCallbacks,
    TrainedHead,
    Training,
    class_weights,
    predict_images,
    solve_heads,
    train_head,
)

if TYPE_CHECKING:
    import keras
    import keras_tuner


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        history: per epoch; of a head that was solved, per penalty: "l2" and "val_loss".
        predict: class probabilities of a split, float32 (images, classes).
        assemble: the model from uint8 pixels to probabilities.
        l2: penalty of a head on frozen features.
    """

    history: History
    predict: Callable[[str], np.ndarray]
    assemble: "Callable[[], keras.Model]"
    l2: float | None = None


class Head(Protocol):
    """A fitted head.

    Attributes:
        l2: penalty on its kernels.
    """

    @property
    def l2(self) -> float: ...

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits of feature vectors (rows, columns), float32 (rows, classes), up to a constant per row."""

    def to_keras(self) -> "keras.Model":
        """From feature vectors to probabilities."""


class Method(NamedTuple):
    """How a model was trained, as its result tells.

    Attributes:
        views: kinds of the augmented ones of each image in the feature bank.
        milliseconds_per_image: of the features; None where there is no bank.
    """

    views: tuple[ViewKind, ...]
    engine: str
    milliseconds_per_image: float | None


class Trainer(Protocol):
    """Fits one model with given hyperparameters."""

    @property
    def method(self) -> Method:
        """How it trains."""

    def defaults(self) -> Hyperparameters:
        """The hyperparameters of params.yaml."""

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        """Add the search space."""

    def fit(self, values: Hyperparameters, make_callbacks: MakeCallbacks, folder: Path, title: str) -> Fitted:
        """Train with `values`; checkpoints and logs go to `folder`."""


def make_trainer(entry: ModelEntry, training: Training) -> Trainer:
    """The trainer for an entry of models.json."""
    return FrozenTrainer(entry, training) if entry.is_frozen else ScratchTrainer(entry, training)


class FrozenTrainer:
    """A head on the feature bank of a frozen backbone: solved where it is linear, else trained."""

    def __init__(self, entry: ModelEntry, training: Training) -> None:
        self.entry = entry
        self.training = training
        self.backbone = BACKBONES[entry.name]
        params = training.training
        # Views make a head robust that is good: under random features it is a baseline, and a pass costs the same.
        is_baseline = entry.weights == "random"
        self.views = () if is_baseline else choose_views(self.backbone, params.views, params.views_max_gmacs)

    @cached_property
    def network(self) -> "keras.Model":
        """The backbone with its weights, which stay as they are."""
        return self.build_network()

    def build_network(self) -> "keras.Model":
        """A backbone of one's own."""
        file = Path(self.entry.weights_file) if self.entry.weights_file else None
        return build_backbone(self.backbone, self.training.image_size, self.training.seed, file)

    @cached_property
    def bank(self) -> FeatureBank:
        """Features of all images, computed where no earlier run has."""
        training = self.training
        augmentation = training.training.augmentation
        return load_or_extract(
            training.banks, training.snapshots, self.backbone, self.network, self.views, augmentation, training.seed
        )

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Class indices of "train" and "valid"."""
        return {split: load_labels(self.training.snapshots, split) for split in ("train", "valid")}

    @cached_property
    def weights(self) -> np.ndarray:
        """Of each class in the loss, float32 (classes,)."""
        return _weigh_classes(self.training)

    @property
    def method(self) -> Method:
        meta = self.bank.meta
        return Method(self.views, meta["engine"], meta["milliseconds_per_image"])

    def defaults(self) -> Hyperparameters:
        builder, params = self.training.builder, self.training.training
        return {
            "taps": "default",
            "pooling": "moments",
            "views": "all" if self.views else "none",
            "hidden_units": builder.hidden_units,
            "l2": builder.l2,
            "label_smoothing": params.label_smoothing,
            "dropout": builder.dropout,
            "learning_rate": params.learning_rate,
            "batch_size": params.batch_size,
            "epochs": params.epochs,
        }

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        space.Choice("taps", list(params.taps))
        space.Choice("pooling", list(params.pooling))
        kinds = set(self.views)
        told_apart = {"none", *kinds} | ({"all"} if len(kinds) > 1 else set())
        space.Choice("views", [choice for choice in params.views if choice in told_apart] or ["none"])
        space.Choice("hidden_units", list(params.hidden_units))

    def cost(self, recipe: HeadRecipe) -> float:
        """10^9 multiply-adds of an image: what lies behind the last of the taps is not computed."""
        ends = [self.network.get_layer(tap).output for tap in recipe.taps]
        part = count_multiply_adds(self.network, ends) / count_multiply_adds(self.network, self.network.outputs)
        return round(self.entry.gmacs * part, 4)

    def read_recipe(self, values: Hyperparameters) -> HeadRecipe:
        """The recipe that `values` and, where they are silent, the defaults stand for."""
        values = self.defaults() | values
        return HeadRecipe.model_validate(values | {"taps": self.backbone.choose_taps(str(values["taps"]))})

    def examples(self, recipe: HeadRecipe, split: str = "train") -> Examples:
        """What a recipe sees of the images of "train", with its views, or of "valid"."""
        columns = self.bank.columns(recipe.taps, recipe.pooling)
        views = recipe.views if split == "train" else "none"
        return Examples(self.bank.select(split, columns, views), self.labels[split])

    def damaged_examples(self, recipe: HeadRecipe) -> Examples | None:
        """What a recipe sees of a damaged view of each training image; None where the bank has none."""
        if "damage" not in self.views:
            return None
        columns, number = self.bank.columns(recipe.taps, recipe.pooling), 1 + self.views.index("damage")
        return Examples(self.bank.features["train"][number : number + 1][:, :, columns], self.labels["train"])

    def weigh(self, labels: np.ndarray) -> np.ndarray:
        """Weight of each class in the loss of a fit to images of these classes, float32 (classes,)."""
        return class_weights(labels, len(self.weights), self.training.training.class_weights)

    def fit_heads(
        self,
        recipe: HeadRecipe,
        train: Examples,
        make_callbacks: MakeCallbacks,
        title: str,
        folder: Path | None = None,
        tolerance: float = TRIAL_TOLERANCE,
    ) -> Iterator[Head]:
        """Heads of a recipe for some images: one per penalty that it leaves open, the strongest first.

        Args:
            recipe: how.
            train: what they learn from.
            make_callbacks: gives the callbacks of a head that is trained.
            title: shown with the progress of one that is trained.
            folder: for its logs.
            tolerance: of the solver, where the recipe names a penalty.
        """
        weights = self.weigh(train.labels)
        if recipe.hidden_units:
            valid, folder = self.examples(recipe, "valid"), folder or self.training.banks / "logs"
            model, history = train_head(
                recipe, train, valid, weights, make_callbacks, folder, title, self.training.seed
            )
            yield TrainedHead(recipe.trained_l2, model, history)
        elif recipe.l2 == "auto":
            yield from solve_heads(train, weights, recipe.label_smoothing)
        else:
            yield from solve_heads(train, weights, recipe.label_smoothing, (recipe.l2,), tolerance)

    def fit(self, values: Hyperparameters, make_callbacks: MakeCallbacks, folder: Path, title: str) -> Fitted:
        recipe = self.read_recipe(values)
        valid = self.examples(recipe, "valid")
        heads = list(
            self.fit_heads(recipe, self.examples(recipe), make_callbacks, title, folder, tolerance=FINAL_TOLERANCE)
        )
        losses = [float(image_losses(valid.labels, _answer(head, valid.clean)).mean()) for head in heads]
        head = heads[int(np.argmin(losses))]
        path = {"l2": [one.l2 for one in heads], "val_loss": losses}
        history = head.history if isinstance(head, TrainedHead) else path
        return Fitted(
            history=history,
            predict=lambda split: self._predict(head, recipe, split),
            assemble=lambda: self._assemble(head.to_keras(), recipe),
            l2=head.l2,
        )

    def _predict(self, head: Head, recipe: HeadRecipe, split: str) -> np.ndarray:
        return _answer(head, self.bank.clean(split, self.bank.columns(recipe.taps, recipe.pooling)))

    def _assemble(self, head: "keras.Model", recipe: HeadRecipe) -> "keras.Model":
        features = build_feature_model(self.backbone, self.network, recipe.taps, recipe.pooling)
        return assemble(features, head, self.backbone.name)


class ScratchTrainer:
    """A whole network, trained from the snapshots with augmentation."""

    method = Method(views=(), engine="TensorFlow", milliseconds_per_image=None)

    def __init__(self, entry: ModelEntry, training: Training) -> None:
        self.spec = find_spec(entry.name)
        self.training = training

    def defaults(self) -> Hyperparameters:
        builder, params = self.training.builder, self.training.training
        return {"dropout": builder.dropout, "l2": builder.trained_l2} | params.from_scratch.model_dump()

    def declare(self, space: "keras_tuner.HyperParameters", params: HyperparameterTuningParams) -> None:
        space.Float("dropout", *params.dropout)
        space.Float("l2", *params.l2, sampling="log")
        space.Choice("label_smoothing", list(params.label_smoothing))
        space.Float("learning_rate", *params.learning_rate, sampling="log")
        space.Choice("batch_size", list(params.batch_size))
        if isinstance(self.spec, Network):
            for name in self.spec.search_space:
                space.Choice(name, list(getattr(params, name)))

    def fit(self, values: Hyperparameters, make_callbacks: MakeCallbacks, folder: Path, title: str) -> Fitted:
        training, values = self.training, self.defaults() | values
        weights = _weigh_classes(training)
        recipe = FromScratchParams.model_validate({key: values.pop(key) for key in FromScratchParams.model_fields})
        builder = training.builder.model_copy(update={key: values.pop(key) for key in ("dropout", "l2")})
        size, seed = training.image_size, training.seed
        model = build_from_scratch(self.spec, size, len(weights), builder, seed, **values)
        history = fit_network(model, recipe, training, weights, make_callbacks, folder, title)
        return Fitted(
            history=history,
            predict=lambda split: predict_images(model, load_snapshot(training.snapshots, split)),
            assemble=lambda: model,
        )


def _answer(head: Head, features: np.ndarray) -> np.ndarray:
    """Class probabilities of feature vectors, float32 (rows, classes)."""
    from scipy.special import softmax

    return softmax(head.logits(features), axis=1)


def _weigh_classes(training: Training) -> np.ndarray:
    labels = load_labels(training.snapshots, "train")
    classes = len(load_class_labels(training.snapshots).classes)
    return class_weights(labels, classes, training.training.class_weights)
