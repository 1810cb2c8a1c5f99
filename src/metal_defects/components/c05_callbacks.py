"""Component 05: the callbacks of stages 06 and 07, all from params.yaml. It writes nothing of its own."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from metal_defects.config import CallbacksParams
from metal_defects.errors import UserError

if TYPE_CHECKING:
    import keras

WARM_UP_EPOCHS = 3


def build_callbacks(
    params: CallbacksParams, folder: Path, epochs: int, learning_rate: float
) -> "list[keras.callbacks.Callback]":
    """Callbacks for one training run.

    Args:
        params: section `callbacks`.
        folder: receives checkpoint.keras, epochs.csv and tensorboard/.
        epochs: planned length, for the cosine schedule.
        learning_rate: at the start.
    """
    from keras import callbacks

    folder.mkdir(parents=True, exist_ok=True)
    stopping, checkpoint = params.early_stopping, params.model_checkpoint
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
        callbacks.ModelCheckpoint(
            str(folder / "checkpoint.keras"),
            monitor=checkpoint.monitor,
            mode=_mode(checkpoint.monitor),
            save_best_only=True,
        ),
        *_learning_rate_callbacks(params, epochs, learning_rate),
    ]
    if params.csv_logger:
        chosen.append(callbacks.CSVLogger(str(folder / "epochs.csv")))
    if params.tensorboard:
        chosen.append(callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    return chosen


def epoch_progress(bar: Progress, description: str, epochs: int) -> "keras.callbacks.Callback":
    """A callback that shows epochs, the latest scores and the time left on a Rich progress display."""
    from keras.callbacks import Callback

    class EpochProgress(Callback):
        def on_train_begin(self, logs: dict | None = None) -> None:
            self.task = bar.add_task(description, total=epochs, note="")

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            note = f"val_loss {logs['val_loss']:.3f}" if logs and "val_loss" in logs else ""
            bar.update(self.task, advance=1, note=note)

        def on_train_end(self, logs: dict | None = None) -> None:
            bar.remove_task(self.task)

    return EpochProgress()


def check_converged(history: dict[str, list[float]]) -> None:
    """Refuse a training run that ended in NaN.

    Raises:
        UserError: the last loss is not a finite number.
    """
    losses = history["loss"]
    if not losses or not math.isfinite(losses[-1]):
        raise UserError(f"Training diverged. Lower the learning rate. Got losses {losses[-3:]}.")


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
