"""Component 05: the callbacks that params.yaml asks for, with its figures."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from metal_defects.components.c05_callbacks import WARM_UP_EPOCHS, build_callbacks
from metal_defects.config import CallbacksParams, Settings

Build = Callable[..., dict]


@pytest.fixture
def build(tmp_path: Path, make_settings: Callable[..., Settings]) -> Build:
    """Callbacks by the name of their class, for 10 epochs from a rate of 0.01."""

    def make(*overrides: str) -> dict:
        params = make_settings(*(f"callbacks.{text}" for text in overrides)).params.callbacks
        return {type(callback).__name__: callback for callback in build_callbacks(params, tmp_path / "logs", 10, 0.01)}

    return make


def test_stopping_and_checkpoint_follow_the_parameters(build: Build, tmp_path: Path) -> None:
    found = build("early_stopping={monitor: val_accuracy, patience: 5, min_delta: 0.01}")
    stopping, checkpoint = found["EarlyStopping"], found["ModelCheckpoint"]
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val_accuracy", "max", 5)
    assert abs(stopping.min_delta) == 0.01
    assert stopping.restore_best_weights
    assert (checkpoint.monitor, checkpoint.save_best_only) == ("val_loss", True)
    assert checkpoint.filepath == str(tmp_path / "logs" / "checkpoint.keras")
    assert "TerminateOnNaN" in found


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("val_accuracy", "max")])
def test_better_is_lower_loss_or_higher_accuracy(build: Build, monitor: str, mode: str) -> None:
    monitors = (f"early_stopping.monitor={monitor}", f"model_checkpoint.monitor={monitor}")
    found = build(*monitors, "learning_rate.policy=plateau")
    assert found["EarlyStopping"].mode == mode
    assert found["ReduceLROnPlateau"].mode == mode
    assert found["ModelCheckpoint"].mode == mode


def test_plateau_lowers_the_rate_as_asked(build: Build) -> None:
    found = build("learning_rate={policy: plateau, factor: 0.25, patience: 7, min_rate: 0.0005}")
    reduce = found["ReduceLROnPlateau"]
    assert (reduce.factor, reduce.patience, reduce.min_lr, reduce.monitor) == (0.25, 7, 0.0005, "val_loss")
    assert "LearningRateScheduler" not in found


def test_cosine_warms_up_and_falls_towards_the_lowest_rate(build: Build) -> None:
    schedule = build("learning_rate={policy: cosine, min_rate: 0.002}")["LearningRateScheduler"].schedule
    rates = [schedule(epoch, math.nan) for epoch in range(10)]
    first = WARM_UP_EPOCHS - 1
    assert rates[:first] == sorted(rates[:first])
    assert rates[0] < 0.01 / 2
    assert 0.009 < rates[first] < 0.01
    assert rates[first:] == sorted(rates[first:], reverse=True)
    assert rates[5] == pytest.approx((0.01 + 0.002) / 2)
    assert 0.002 < rates[-1] < 0.0025


def test_constant_leaves_the_rate_alone(build: Build) -> None:
    assert not build("learning_rate.policy=constant").keys() & {"ReduceLROnPlateau", "LearningRateScheduler"}


@pytest.mark.parametrize(("switch", "name"), [("csv_logger", "CSVLogger"), ("tensorboard", "TensorBoard")])
def test_logs_can_be_switched_off(build: Build, switch: str, name: str) -> None:
    assert name in build(f"{switch}=true")
    assert name not in build(f"{switch}=false")


def test_shipped_parameters_give_every_callback(build: Build, make_settings: Callable[..., Settings]) -> None:
    assert isinstance(make_settings().params.callbacks, CallbacksParams)
    assert {"EarlyStopping", "ModelCheckpoint", "TensorBoard", "CSVLogger", "TerminateOnNaN"} <= build().keys()


def test_a_trial_keeps_neither_checkpoint_nor_tensorboard(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    params = make_settings().params.callbacks
    found = {type(one).__name__ for one in build_callbacks(params, tmp_path, 10, 0.01, is_trial=True)}
    usual = {type(one).__name__ for one in build_callbacks(params, tmp_path, 10, 0.01)}
    assert usual - found == {"ModelCheckpoint", "TensorBoard"}
