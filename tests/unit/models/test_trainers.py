"""Trainers: a new model is a row of the table, a constructor does no work, and saved models answer as trained ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.toy_network import SIDE, TOY, write_snapshots

from metal_defects.config import Settings
from metal_defects.data.snapshots import load_snapshot
from metal_defects.models import specs
from metal_defects.models.results import ModelEntry
from metal_defects.models.specs import Network
from metal_defects.models.trainers import FrozenTrainer, ScratchTrainer, make_trainer
from metal_defects.models.training import Training, predict_images

if TYPE_CHECKING:
    import keras

OVERRIDES = ("data_preprocessing.image_size=64", "training.epochs=4", "training.views=[damage]")
FROM_SCRATCH = "training.from_scratch={epochs: 1, batch_size: 4, learning_rate: 0.01, label_smoothing: 0}"


def build_second(image_size: int, classes: int, *, dropout: float, l2: float, width: int = 4) -> "keras.Model":
    """A network that is only ever trained from scratch, with one argument of its own."""
    import keras
    from keras import layers

    pixels = keras.Input((image_size, image_size, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(width, 3, strides=4, activation="relu", name="texture")(x)
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    decay = keras.regularizers.L2(l2)
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", kernel_regularizer=decay)(x), name="second")


SECOND = Network(
    name="second",
    title="Second",
    gmacs=0.01,
    build_classifier=build_second,
    search_space=("filters",),
    find_maps=lambda model: ["texture"],
)


def make_entry(**changes: object) -> ModelEntry:
    usual = {
        "name": "toy",
        "title": "Toy",
        "kind": "frozen",
        "weights": "ImageNet",
        "weights_file": None,
        "weights_sha256": None,
        "gmacs": 0.5,
        "parameters": 1,
        "trainable_parameters": 1,
    }
    return ModelEntry(**usual | changes)


def call_back_never(_folder: Path, _epochs: int, _learning_rate: float) -> list:
    return []


@pytest.fixture
def training(tmp_path: Path, make_settings: Callable[..., Settings]) -> Training:
    params = make_settings(*OVERRIDES, FROM_SCRATCH).params
    snapshots = write_snapshots(tmp_path / "snapshots")
    return Training(1, SIDE, params.model_builder, params.training, snapshots, tmp_path / "banks")


@pytest.fixture
def frozen(training: Training, monkeypatch: pytest.MonkeyPatch) -> FrozenTrainer:
    monkeypatch.setitem(specs.BACKBONES, "toy", TOY)
    trainer = make_trainer(make_entry(), training)
    assert isinstance(trainer, FrozenTrainer)
    return trainer


def test_a_constructor_does_no_work(frozen: FrozenTrainer, training: Training) -> None:
    assert not training.banks.exists()
    assert frozen.bank.features["train"].shape[0] == 2
    assert training.banks.exists()


def test_untrained_features_get_no_views(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(specs.BACKBONES, "toy", TOY)
    trainer = make_trainer(make_entry(weights="random"), training)
    assert trainer.method.views == ()
    assert trainer.defaults()["views"] == "none"


def test_a_saved_model_answers_as_the_trained_one(frozen: FrozenTrainer, tmp_path: Path) -> None:
    import keras

    values = frozen.defaults() | {"taps": "all"}
    fitted = frozen.fit(values, call_back_never, tmp_path, "toy")
    fitted.assemble().save(tmp_path / "model.h5", include_optimizer=False)
    model = keras.models.load_model(tmp_path / "model.h5", compile=False)
    answers = predict_images(model, load_snapshot(frozen.training.snapshots, "test"))
    assert np.allclose(answers, fitted.predict("test"), atol=1e-4)


def test_a_second_network_from_scratch_needs_its_row_alone(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: Callable[..., Settings]
) -> None:
    import keras_tuner

    monkeypatch.setitem(specs.SPECS, "second", SECOND)
    entry = make_entry(name="second", title="Second", kind="from scratch", weights="from scratch")
    trainer = make_trainer(entry, training)
    assert isinstance(trainer, ScratchTrainer)
    space = keras_tuner.HyperParameters()
    trainer.declare(space, make_settings().params.hyperparameter_tuning)
    assert "filters" in space.values
    assert "depth" not in space.values
    fitted = trainer.fit({"width": 2}, call_back_never, tmp_path, "second")
    model = fitted.assemble()
    assert model.get_layer("texture").filters == 2
    answers = predict_images(model, load_snapshot(training.snapshots, "valid"))
    assert np.allclose(answers, fitted.predict("valid"), atol=1e-6)
