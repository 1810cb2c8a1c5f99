"""Component 05, a library of the stages that train: their callbacks, all from params.yaml. It writes nothing."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from metal_defects.artifacts import SNAPSHOTS_FOLDER
from metal_defects.config import CallbacksParams
from metal_defects.data.snapshots import load_class_labels
from metal_defects.models.training import Training
from metal_defects.pipeline.context import StageContext

if TYPE_CHECKING:
    import keras

WARM_UP_EPOCHS = 3


def build_callbacks(
    params: CallbacksParams, folder: Path, epochs: int, learning_rate: float, *, is_trial: bool = False
) -> "list[keras.callbacks.Callback]":
    """Callbacks for one training run.

    Args:
        params: section `callbacks`.
        folder: receives checkpoint.keras, epochs.csv and tensorboard/.
        epochs: planned length, for the cosine schedule.
        learning_rate: at the start.
        is_trial: the model is not kept, only its score: no checkpoint and no TensorBoard, which take longer than a
            small head.
    """
    from keras import callbacks

    folder.mkdir(parents=True, exist_ok=True)
    stopping, checkpoint = params.early_stopping, params.model_checkpoint.monitor
    chosen = [
        callbacks.TerminateOnNaN(),
        callbacks.EarlyStopping(
            monitor=stopping.monitor,
            mode=_mode(stopping.monitor),
            patience=stopping.patience,
            min_delta=stopping.min_delta,
            # At the high rates of the first half the loss swings too much to tell progress by.
            start_from_epoch=epochs // 2,
            restore_best_weights=True,
        ),
        *_learning_rate_callbacks(params, epochs, learning_rate),
    ]
    if not is_trial:
        file = str(folder / "checkpoint.keras")
        kept = callbacks.ModelCheckpoint(file, monitor=checkpoint, mode=_mode(checkpoint), save_best_only=True)
        chosen.append(kept)
    if params.csv_logger:
        chosen.append(callbacks.CSVLogger(str(folder / "epochs.csv")))
    if params.tensorboard and not is_trial:
        chosen.append(callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    return chosen


def gather_training(ctx: StageContext) -> Training:
    """What every fit of a run has in common, of a stage that trains."""
    snapshots = ctx.path(SNAPSHOTS_FOLDER)
    return Training(
        seed=ctx.setting("seed"),
        image_size=load_class_labels(snapshots).image_size,
        builder=ctx.setting("model_builder"),
        training=ctx.setting("training"),
        snapshots=snapshots,
        banks=ctx.banks,
    )


def _learning_rate_callbacks(
    params: CallbacksParams, epochs: int, learning_rate: float
) -> "list[keras.callbacks.Callback]":
    from keras import callbacks

    policy = params.learning_rate
    if policy.policy == "plateau":
        monitor = params.early_stopping.monitor
        reduce = callbacks.ReduceLROnPlateau(
            monitor=monitor,
            mode=_mode(monitor),
            factor=policy.factor,
            patience=policy.patience,
            min_lr=policy.min_rate,
        )
        return [reduce]
    if policy.policy == "cosine":
        span = learning_rate - policy.min_rate

        def schedule(epoch: int, _: float) -> float:
            warm_up = min(1.0, (epoch + 1) / WARM_UP_EPOCHS)
            return policy.min_rate + warm_up * span * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

        return [callbacks.LearningRateScheduler(schedule)]
    return []


def _mode(monitor: str) -> str:
    return "max" if monitor == "val_accuracy" else "min"
