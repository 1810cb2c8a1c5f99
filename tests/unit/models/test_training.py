"""Fitting heads and networks, weighting classes, and what is shown of it."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console
from rich.progress import Progress, TextColumn
from support.toy_network import SIDE, TOY, draw_split, write_snapshots

from metal_defects.components.c05_callbacks import build_callbacks
from metal_defects.config import FromScratchParams, ModelBuilderParams, Settings
from metal_defects.data.snapshots import load_snapshot
from metal_defects.errors import UserError
from metal_defects.metrics import image_losses
from metal_defects.models.network_training import fit_network
from metal_defects.models.networks import (
    add_untrained_head,
    build_backbone,
    build_feature_model,
    build_from_scratch,
)
from metal_defects.models.specs import find_spec
from metal_defects.models.training import (
    Examples,
    HeadRecipe,
    TrainedHead,
    Training,
    check_converged,
    class_weights,
    epoch_progress,
    predict_images,
    solve_heads,
    train_head,
)

LABELS = {split: np.arange(count, dtype=np.int32) % 3 for split, count in {"train": 60, "valid": 30}.items()}
FAST = ("callbacks.tensorboard=false", "callbacks.learning_rate.policy=constant", "data_preprocessing.image_size=64")


def make_examples(split: str, spread: float = 0.5, scale: float = 1.0) -> Examples:
    """Three clouds in four columns, seen twice where they are trained on."""
    random = np.random.default_rng(len(split))
    centres = np.array([[2, 0, 0, 1], [0, 2, 0, 1], [0, 0, 2, 1]], np.float32)
    noise = random.normal(0, spread, (1 + (split == "train"), len(LABELS[split]), 4)).astype(np.float32)
    return Examples((noise + centres[LABELS[split]]) * scale, LABELS[split])


def make_recipe(**changes: object) -> HeadRecipe:
    values = {
        "taps": ("any",), "pooling": "moments", "views": "damage", "hidden_units": 4, "dropout": 0.0, "l2": 0.0001,
        "label_smoothing": 0.0, "learning_rate": 0.05, "batch_size": 16, "epochs": 8,
    }  # fmt: skip
    return HeadRecipe(**values | changes)


@pytest.fixture
def train(tmp_path: Path, make_settings: Callable[..., Settings]) -> Callable:
    make_callbacks = partial(build_callbacks, make_settings(*FAST).params.callbacks)

    def run(recipe: HeadRecipe, seed: int = 1, **cloud: float) -> TrainedHead:
        weights = class_weights(LABELS["train"], 3, "balanced")
        examples = (make_examples(split, **cloud) for split in LABELS)
        model, history = train_head(recipe, *examples, weights, make_callbacks, tmp_path / "logs", "toy", seed)
        return TrainedHead(recipe.trained_l2, model, history)

    return run


def answer(head: TrainedHead, **cloud: float) -> np.ndarray:
    return np.exp(head.logits(make_examples("valid", **cloud).clean))


def test_examples_are_taken_by_image_and_read_by_view() -> None:
    whole = Examples(np.arange(24.0).reshape(2, 3, 4), np.array([2, 0, 1]))
    some = whole.take(np.array([2, 0]))
    assert some.labels.tolist() == [1, 2]
    assert some.clean.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert some.rows[2:].tolist() == [[20, 21, 22, 23], [12, 13, 14, 15]]
    assert some.row_labels.tolist() == [1, 2, 1, 2]


def test_hidden_layer_learns_what_can_be_told_apart(train: Callable, tmp_path: Path) -> None:
    head = train(make_recipe())
    probabilities = answer(head)
    assert (probabilities.argmax(1) == LABELS["valid"]).mean() > 0.9
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert head.history["val_loss"][-1] < head.history["val_loss"][0]
    assert (tmp_path / "logs" / "checkpoint.keras").exists()
    assert len((tmp_path / "logs" / "epochs.csv").read_text().splitlines()) == 1 + len(head.history["loss"])


def test_same_seed_same_head(train: Callable) -> None:
    recipe = make_recipe(dropout=0.3, epochs=3)
    heads = [train(recipe, seed).model.get_weights() for seed in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(heads[0], heads[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(heads[0], heads[2], strict=True))


def test_head_does_not_mind_the_scale_of_its_features(train: Callable) -> None:
    recipe = make_recipe(epochs=4)
    answers = [answer(train(recipe, scale=scale), scale=scale) for scale in (1.0, 1000.0)]
    assert np.allclose(*answers, atol=1e-3)


def test_diverging_training_is_explained(train: Callable) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(make_recipe(), scale=np.nan)


def test_best_epoch_is_kept_not_the_last(train: Callable) -> None:
    head = train(make_recipe(hidden_units=64, learning_rate=0.03, epochs=30, l2=0.0), spread=2.0)
    losses = image_losses(LABELS["valid"], answer(head, spread=2.0))
    second_half = head.history["val_loss"][15:]
    assert min(second_half) < second_half[-1] - 0.01
    assert losses.mean() == pytest.approx(min(second_half), abs=1e-3)


def test_penalty_left_open_is_the_usual_one_where_it_is_trained() -> None:
    assert make_recipe(l2="auto").trained_l2 == 0.0001
    assert make_recipe(l2=0.5).trained_l2 == 0.5


def test_label_smoothing_and_class_weights_reach_the_solved_head() -> None:
    examples = make_examples("train", spread=1.5)
    plain, smooth, heavy = (
        next(solve_heads(examples, np.array(weights), smoothing, (0.003,))).logits(examples.clean)
        for weights, smoothing in (((1, 1, 1), 0.0), ((1, 1, 1), 0.3), ((9, 1, 1), 0.0))
    )
    assert np.abs(smooth - smooth.mean(1, keepdims=True)).mean() < np.abs(plain - plain.mean(1, keepdims=True)).mean()
    assert (heavy.argmax(1) == 0).sum() > (plain.argmax(1) == 0).sum()


def test_balanced_weights_by_hand() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
    assert class_weights(labels, 3, "balanced") == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert class_weights(labels, 3, "none").tolist() == [1, 1, 1]


@given(arrays(np.int32, st.integers(1, 200), elements=st.integers(0, 4)))
def test_balanced_weights_make_classes_count_alike(labels: np.ndarray) -> None:
    weights = class_weights(labels, 5, "balanced")
    totals = weights * np.bincount(labels, minlength=5)
    assert np.isfinite(weights).all()
    assert totals[totals > 0] == pytest.approx(len(labels) / 5, rel=1e-5)


@pytest.fixture
def make_training(tmp_path: Path, make_settings: Callable[..., Settings]) -> Callable[..., Training]:
    """What fits have in common, with overrides of params.yaml; the snapshots lie in `tmp_path`."""

    def make(*overrides: str) -> Training:
        params = make_settings(*FAST, *overrides).params
        return Training(
            seed=params.seed,
            image_size=SIDE,
            builder=params.model_builder,
            training=params.training,
            snapshots=tmp_path / "snapshots",
            banks=tmp_path / "banks",
        )

    return make


def stop_never(_folder: Path, _epochs: int, _learning_rate: float) -> list:
    """No callbacks."""
    return []


def test_network_from_scratch_is_wholly_trained(make_training: Callable[..., Training]) -> None:
    builder = make_training().builder
    models = [build_from_scratch(TOY, 64, 3, builder, seed=1) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*(model.get_weights() for model in models), strict=True))
    assert models[0].input.dtype == "uint8"
    assert models[0].input_shape == (None, 64, 64, 3)
    trained = {weight.path.split("/")[-2] for weight in models[0].trainable_weights}
    assert trained == {"first", "first_norm", "second", "probabilities"}


def test_custom_network_gives_probabilities_and_can_be_shaped(make_training: Callable[..., Training]) -> None:
    builder, spec = make_training().builder, find_spec("custom_cnn")
    usual = build_from_scratch(spec, 64, 3, builder, seed=1)
    small = build_from_scratch(spec, 64, 3, builder, seed=1, filters=4, depth=3)
    assert small.count_params() < usual.count_params()
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert np.allclose(np.asarray(small(image)).sum(1), 1, atol=1e-5)


def make_network_parts(snapshots: Path, builder: ModelBuilderParams):
    write_snapshots(snapshots)
    features = build_feature_model(TOY, build_backbone(TOY, SIDE, 1, None), TOY.taps)
    return add_untrained_head(features, 3, builder, "toy")


def test_network_is_fitted_alike_with_the_same_seed(tmp_path: Path, make_training: Callable[..., Training]) -> None:
    recipe = FromScratchParams(epochs=2, batch_size=4, learning_rate=0.01, label_smoothing=0.1)
    answers = []
    for run in ("a", "b"):
        training = replace(make_training(), snapshots=tmp_path / run)
        model = make_network_parts(training.snapshots, training.builder)
        fit_network(model, recipe, training, np.ones(3, np.float32), stop_never, tmp_path / "logs", "toy")
        answers.append(predict_images(model, load_snapshot(training.snapshots, "valid")))
    assert np.array_equal(*answers)


def test_predictions_of_a_snapshot_keep_its_order(make_training: Callable[..., Training]) -> None:
    training = make_training()
    model = make_network_parts(training.snapshots, training.builder)
    found = predict_images(model, load_snapshot(training.snapshots, "valid"))
    assert np.allclose(found, model(draw_split("valid")[0]), atol=1e-5)


@given(st.lists(st.floats(0, 10)), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_run_that_ends_without_a_finite_loss_is_refused(losses: list[float], last: float) -> None:
    with pytest.raises(UserError, match="learning rate"):
        check_converged({"loss": [*losses, last]})


def test_run_without_an_epoch_is_refused_and_a_finite_one_passes() -> None:
    with pytest.raises(UserError, match="diverged"):
        check_converged({"loss": []})
    check_converged({"loss": [math.nan, 0.5]})


def test_progress_shows_epochs_and_the_latest_score_and_goes_away() -> None:
    columns = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    with Progress(*columns, console=Console(file=StringIO())) as bar:
        callback = epoch_progress(bar, "Toy", 5)
        callback.on_train_begin()
        callback.on_epoch_end(0, {"val_loss": 0.12345})
        callback.on_epoch_end(1, {"loss": 1.0})
        (task,) = bar.tasks
        assert (task.description, task.completed, task.total) == ("Toy", 2, 5)
        callback.on_epoch_end(2, {"val_loss": 0.12345})
        assert task.fields["note"] == "val_loss 0.123"
        callback.on_train_end()
        assert not bar.tasks
