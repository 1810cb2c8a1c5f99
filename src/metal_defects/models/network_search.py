"""The search for the hyperparameters of a network that is trained as a whole: every trial is a training."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metal_defects.config import HyperparameterTuningParams
from metal_defects.errors import UserError
from metal_defects.log import progress_bar
from metal_defects.metrics import image_losses
from metal_defects.models.results import Trial, Value
from metal_defects.models.search import OBJECTIVE, Found, make_guessing_oracle, make_tuner
from metal_defects.models.trainers import Trainer
from metal_defects.models.training import MakeCallbacks

if TYPE_CHECKING:
    import keras_tuner


def search_network(
    trainer: Trainer,
    labels: np.ndarray,
    params: HyperparameterTuningParams,
    make_callbacks: MakeCallbacks,
    resume: Path,
    seed: int,
) -> Found:
    """The hyperparameters of the lowest log loss on the validation images.

    Args:
        trainer: of the network.
        labels: of the validation images, int32 (images,).
        params: what is searched, and how long.
        make_callbacks: of a trial.
        resume: folder that survives a crash.
        seed: of what is drawn.

    Raises:
        UserError: no trial succeeded.
    """
    import keras_tuner

    count, epochs = params.from_scratch_max_trials, params.from_scratch_epochs
    space = keras_tuner.HyperParameters()
    trainer.declare(space, params)
    with progress_bar() as bar:
        task = bar.add_task("Tuning trials", total=count, note="")

        def run_trial(trial: "keras_tuner.engine.trial.Trial") -> dict[str, float]:
            start, values = time.monotonic(), dict(trial.hyperparameters.values)
            rounds = int(values.get("tuner/epochs", epochs))
            folder = resume / "logs" / trial.trial_id
            shutil.rmtree(folder, ignore_errors=True)
            fitted = trainer.fit(
                _drop_own(values) | {"epochs": rounds}, make_callbacks, folder, f"trial {int(trial.trial_id)}"
            )
            probabilities = fitted.predict("valid")
            bar.advance(task)
            return {
                OBJECTIVE: float(image_losses(labels, probabilities).mean()),
                "accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
                "seconds": time.monotonic() - start,
                "epochs": rounds,
            }

        tuner = make_tuner(
            run_trial, lambda: make_guessing_oracle(params.algorithm, space, count, epochs, seed), resume
        )
        bar.update(task, completed=sum(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values()))
        tuner.search(verbose=0)
    trials = tuple(_describe(trial, len(labels)) for _, trial in sorted(tuner.oracle.trials.items()))
    scores = {trial.number: trial.score for trial in trials if trial.score is not None}
    if not scores:
        raise UserError(f"No tuning trial succeeded. Got: {trials[0].message.strip().splitlines()[-1]}")
    best = next(trial for trial in trials if trial.number == min(scores, key=lambda number: scores[number]))
    return Found(trials, dict(best.params), f"The lowest log loss on the validation images, {best.score:.4f}, wins.")


def _drop_own(values: dict[str, Value]) -> dict[str, Value]:
    """Hyperparameters without those that Keras Tuner adds for itself."""
    return {key: value for key, value in values.items() if not key.startswith("tuner/")}


def _describe(trial: "keras_tuner.engine.trial.Trial", images: int) -> Trial:
    """One trial as plain values; its hyperparameters under the names that a trainer takes."""
    completed = trial.status == "COMPLETED"

    def metric(name: str) -> float | None:
        return trial.metrics.get_best_value(name) if completed else None

    return Trial(
        number=int(trial.trial_id),
        status=str(trial.status),
        score=trial.score if completed else None,
        accuracy=metric("accuracy"),
        images=images if completed else None,
        seconds=metric("seconds"),
        epochs=metric("epochs"),
        params=_drop_own(trial.hyperparameters.values),
        message=trial.message or "",
    )
