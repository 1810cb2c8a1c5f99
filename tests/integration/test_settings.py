"""No setting is dead: each is read by a whole run, or changes what the part that it is for does."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import PROJECT
from support.readings import list_keys
from support.stages import leave, make_context
from support.toy_network import SIDE, TOY
from support.workshop import Workshop

from metal_defects.artifacts import LABELS, SOURCE
from metal_defects.components import c04_model_builder
from metal_defects.components.c05_callbacks import build_callbacks
from metal_defects.config import Settings
from metal_defects.data.manifest import SourceCard
from metal_defects.data.snapshots import ClassLabels
from metal_defects.data.sources import find_source, source_fingerprint
from metal_defects.errors import WeightsError
from metal_defects.evaluation import fine_tuning_trial
from metal_defects.files import read_json
from metal_defects.models.fine_tuning import MapExamples
from metal_defects.models.results import ModelEntry
from metal_defects.models.search import make_guessing_oracle
from metal_defects.models.specs import TunedBlocks
from metal_defects.models.trainers import FrozenTrainer, ScratchTrainer
from metal_defects.models.training import Training

Observe = Callable[[Settings], Any]
API = "tests/unit/api/test_application.py"
SERVER = "tests/integration/test_api_server.py"
EXPORT = "tests/integration/test_export.py"
WHOLE_RUN = "tests/integration/test_pipeline.py"
# Keys that a run of a frozen backbone, without int8, has no need of, and the tests that change them.
ELSEWHERE = {
    "serving.host": f"{SERVER}::test_insecure_listens_and_warns",
    "serving.port": f"{SERVER}::test_refuses_to_start_in_one_sentence",
    "serving.max_files": f"{API}::test_a_bad_call",
    "serving.max_file_bytes": f"{API}::test_a_file_over_its_bound_costs_only_itself",
    "serving.max_request_bytes": f"{API}::test_an_endless_body_is_refused_while_it_is_read",
    "serving.max_pixels": f"{API}::test_a_bad_image_alone",
    "serving.max_waiting_images": f"{API}::test_overload_is_refused_at_once_and_passes",
    "serving.max_waiting_bytes": f"{API}::test_memory_for_uploads_is_bounded_over_all_calls",
    "serving.timeout_seconds": f"{API}::test_a_deadline_ends_the_call_and_drops_what_waits",
    "serving.drain_seconds": f"{SERVER}::test_sigterm_says_not_ready_then_finishes_what_it_has",
    "model_export.calibration_images": f"{EXPORT}::test_int8_is_calibrated_on_as_many_images_as_asked",
    "hyperparameter_tuning.from_scratch_max_trials": f"{WHOLE_RUN}::test_network_from_scratch_goes_all_the_way",
    "hyperparameter_tuning.from_scratch_epochs": f"{WHOLE_RUN}::test_network_from_scratch_goes_all_the_way",
}
PLATEAU = ("callbacks.learning_rate.policy=plateau",)
MISSING = ("model_builder.models=[vgg16]", "model_builder.on_missing_weights=error")
URL = ("data.source=url", "data.url=https://a.example/set.zip")
DRAWN = ("data.source=synthetic", "data_ingestion.synthetic_images_per_class=4")


def fetch(settings: Settings) -> tuple[Path, int]:
    """Where drawn images lie, and how many."""
    folder = find_source(settings).folder
    return folder, len(list(folder.rglob("*.jpg")) + list(folder.rglob("*.png")))


def miss_weights(settings: Settings) -> str:
    """What stage 04 says where no weights are to be had."""
    kind = {"kind": "path", "root": "", "layout": "class", "classes": ("A", "B"), "notice": None, "attempts": ()}
    leave(settings, SOURCE, SourceCard(**kind))
    leave(settings, LABELS, ClassLabels(classes=("A", "B"), image_size=64))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(WeightsError) as caught:
        patch.setattr(c04_model_builder, "find_weights", lambda *_: None)
        c04_model_builder.run(make_context("04", settings))
    return str(caught.value)


def make_schedule(settings: Settings) -> tuple[float, int]:
    """Of the callback that lowers the learning rate where the loss stands still."""
    from keras.callbacks import ReduceLROnPlateau

    folder = settings.config.paths.artifacts
    callbacks = build_callbacks(settings.params.callbacks, folder, epochs=8, learning_rate=0.1)
    [found] = [callback for callback in callbacks if isinstance(callback, ReduceLROnPlateau)]
    return found.factor, found.patience


def list_callbacks(settings: Settings) -> list[tuple[Any, ...]]:
    """What each callback of a training was told, and the learning rate of the fifth of its eight epochs."""
    folder, kept = settings.config.paths.artifacts, ("monitor", "patience", "min_delta", "mode")
    callbacks = build_callbacks(settings.params.callbacks, folder, epochs=8, learning_rate=0.1)
    schedules = [callback.schedule(4, 0.1) for callback in callbacks if hasattr(callback, "schedule")]
    return [(type(one).__name__, *(getattr(one, name, None) for name in kept)) for one in callbacks] + [(*schedules,)]


def choose_oracle(settings: Settings) -> str:
    """The kind of what proposes the trials of a network."""
    import keras_tuner

    params = settings.params.hyperparameter_tuning
    return type(make_guessing_oracle(params.algorithm, keras_tuner.HyperParameters(), 2, 2, 1)).__name__


def make_training(settings: Settings) -> Training:
    params, artifacts = settings.params, settings.config.paths.artifacts
    sections = {"builder": params.model_builder, "training": params.training}
    return Training(seed=1, image_size=64, **sections, snapshots=artifacts, banks=artifacts)


def make_entry(**changes: str) -> ModelEntry:
    entry = {"name": "custom_cnn", "title": "A model", "kind": "from scratch", "weights": "from scratch"}
    unknown = {"weights_file": None, "weights_sha256": None, "gmacs": 1.0, "parameters": 1, "trainable_parameters": 1}
    return ModelEntry(**entry | changes, **unknown)


def make_scratch_trainer(settings: Settings) -> ScratchTrainer:
    return ScratchTrainer(make_entry(), make_training(settings))


def list_choices(settings: Settings) -> dict[str, Any]:
    """The search space of the custom CNN."""
    import keras_tuner

    space = keras_tuner.HyperParameters()
    make_scratch_trainer(settings).declare(space, settings.params.hyperparameter_tuning)
    return {one.name: one.get_config() for one in space.space}


def fine_tune(settings: Settings) -> tuple[Any, ...]:
    """How many epochs fine-tuning gets where an image takes a tenth of a second, and the learning rate at the start."""
    asked: list[tuple[Any, ...]] = []

    def call_back(_: Path, *planned: Any) -> list[Any]:
        asked.append(planned)
        raise InterruptedError

    training = make_training(settings)
    backbone = replace(TOY, tuned_blocks=TunedBlocks("shallow", ("deep",)))
    side, channels = TOY.build(SIDE).get_layer("shallow").output.shape[2:]
    rows = MapExamples((np.zeros((100, side, side, channels), np.float16),), np.zeros(100, np.int32))
    trainer: Any = SimpleNamespace(
        backbone=backbone, build_network=lambda: TOY.build(SIDE), weigh=lambda _: np.ones(2, np.float32),
        weights=np.ones(2, np.float32), training=training,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr(fine_tuning_trial, "time_image", lambda *_: 0.1)
        epochs = fine_tuning_trial._plan(trainer, rows, rows)
        fine_tuning_trial._train(trainer, rows, rows, epochs, call_back, settings.config.paths.artifacts, "")
    return asked[0]


def name_obstacle(settings: Settings) -> str | None:
    """Why a backbone that names 97 % rightly is not fine-tuned."""
    trainer = FrozenTrainer(make_entry(name="resnet18", kind="frozen", weights="ImageNet"), make_training(settings))
    return fine_tuning_trial._find_obstacle(trainer, settings.params.training, accuracy=0.97)


def scratch_recipe(settings: Settings) -> dict[str, Any]:
    return make_scratch_trainer(settings).defaults()


CHANGES: tuple[tuple[str, Observe, tuple[str, ...]], ...] = (
    ("paths.downloads=elsewhere", fetch, DRAWN),
    ("data_ingestion.synthetic_images_per_class=5", fetch, DRAWN),
    ("data.url=https://b.example/set.zip", source_fingerprint, URL),
    (f"data.sha256={'a' * 64}", source_fingerprint, URL),
    ("data.kaggle=somebody/something", source_fingerprint, ("data.source=kaggle",)),
    ("model_builder.on_missing_weights=skip", miss_weights, MISSING),
    ("callbacks.learning_rate.factor=0.3", make_schedule, PLATEAU),
    ("callbacks.learning_rate.patience=1", make_schedule, PLATEAU),
    ("training.from_scratch.epochs=2", scratch_recipe, ()),
    ("training.from_scratch.batch_size=2", scratch_recipe, ()),
    ("training.from_scratch.learning_rate=0.5", scratch_recipe, ()),
    ("training.from_scratch.label_smoothing=0.5", scratch_recipe, ()),
    ("callbacks.early_stopping.monitor=val_accuracy", list_callbacks, ()),
    ("callbacks.early_stopping.patience=2", list_callbacks, ()),
    ("callbacks.early_stopping.min_delta=0.5", list_callbacks, ()),
    ("callbacks.model_checkpoint.monitor=val_accuracy", list_callbacks, ()),
    ("callbacks.learning_rate.policy=constant", list_callbacks, ()),
    ("callbacks.learning_rate.min_rate=0.01", list_callbacks, ()),
    ("callbacks.tensorboard=false", list_callbacks, ()),
    ("callbacks.csv_logger=false", list_callbacks, ()),
    ("training.fine_tune_below=0.9", name_obstacle, ()),
    ("training.fine_tune_minutes=3", fine_tune, ()),
    ("training.fine_tune_epochs=9", fine_tune, ()),
    ("training.fine_tune_learning_rate=0.5", fine_tune, ()),
    ("hyperparameter_tuning.algorithm=hyperband", choose_oracle, ()),
    ("hyperparameter_tuning.dropout=[0.1,0.2]", list_choices, ()),
    ("hyperparameter_tuning.l2=[0.1,0.2]", list_choices, ()),
    ("hyperparameter_tuning.label_smoothing=[0.3]", list_choices, ()),
    ("hyperparameter_tuning.learning_rate=[0.1,0.2]", list_choices, ()),
    ("hyperparameter_tuning.batch_size=[8]", list_choices, ()),
    ("hyperparameter_tuning.filters=[8]", list_choices, ()),
    ("hyperparameter_tuning.depth=[3]", list_choices, ()),
)


def read_settings(finished: Workshop) -> dict[str, set[str]]:
    """The keys that each stage of the whole run read, by its number; "" is everything around them."""
    return {stage: set(keys) for stage, keys in read_json(finished.folder / "settings.json").items()}


def test_every_key_is_read_by_the_run_or_has_a_test(finished: Workshop) -> None:
    read = set().union(*read_settings(finished).values())
    changed = {override.partition("=")[0] for override, *_ in CHANGES}
    assert sorted(set(list_keys()) - read) == sorted(changed | ELSEWHERE.keys())


@pytest.mark.parametrize(("key", "test"), ELSEWHERE.items())
def test_the_test_of_a_key_is_there(key: str, test: str) -> None:
    file, _, name = test.partition("::")
    text = (PROJECT / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", text, re.MULTILINE)
    assert key.rpartition(".")[2] in text


@pytest.mark.parametrize(
    ("override", "observe", "others"), CHANGES, ids=[override.partition("=")[0] for override, *_ in CHANGES]
)
def test_a_change_changes_something(
    override: str, observe: Observe, others: tuple[str, ...], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    changed = override if override != "paths.downloads=elsewhere" else f"paths.downloads={tmp_path / 'elsewhere'}"
    assert observe(make_settings(*others)) != observe(make_settings(*others, changed))
