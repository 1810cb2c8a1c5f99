"""Stage 07: Keras Tuner on the best base model; the winner is refitted, saved, and tested exactly once."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.artifacts import (
    BASE_MODELS,
    BEST,
    IMAGES,
    LABELS,
    MODELS,
    PREPROCESSED,
    SNAPSHOTS_FOLDER,
    SOURCE,
    TRIALS,
    TUNED_CARD,
    TUNED_H5,
    TUNED_KERAS,
    TUNED_METRICS,
)
from metal_defects.components.c05_callbacks import build_callbacks, gather_training
from metal_defects.components.split_results import HELD_OUT, LabelledImages, write_split_results
from metal_defects.config import HyperparameterTuningParams
from metal_defects.data.manifest import ImageRow, SourceCard
from metal_defects.data.snapshots import ClassLabels, load_snapshot
from metal_defects.errors import UserError
from metal_defects.files import sha256_file
from metal_defects.log import logger, progress_bar
from metal_defects.metrics import SplitMetrics, format_accuracy, image_losses
from metal_defects.models.results import (
    BestBase,
    LogLosses,
    ModelEntry,
    ModelList,
    Trial,
    TunedCard,
    TunedResult,
)
from metal_defects.models.trainers import Trainer, make_trainer
from metal_defects.models.training import predict_images
from metal_defects.pipeline.context import StageContext
from metal_defects.plots.training import draw_learning_curves
from metal_defects.plots.tuning import draw_trials
from metal_defects.records import write_record, write_table

if TYPE_CHECKING:
    import keras_tuner

OBJECTIVE = "val_log_loss"
PARITY_TOLERANCE = 1e-3
CANDIDATES = 4096


def run(ctx: StageContext) -> None:
    """Write trials.csv, tuned_model.h5, .keras and .json, metrics and plots.

    Raises:
        UserError: no trial succeeded.
    """
    start = time.monotonic()
    best, base_models = ctx.read(BEST, BestBase), ctx.path(BASE_MODELS)
    entry = ctx.read(MODELS, ModelList).find(best.name)
    images = LabelledImages(
        ctx.read_rows(IMAGES, ImageRow), ctx.read(LABELS, ClassLabels).classes, ctx.path(PREPROCESSED)
    )
    logger.info("   tuning %s", entry.full_title)
    trainer, labels = make_trainer(entry, gather_training(ctx)), images.labels("valid")
    trials = _search(ctx, trainer, entry, labels)
    _write_trials(ctx.out, trials)
    _, winner = min(((trial.score, trial) for trial in trials if trial.score is not None), key=itemgetter(0))
    make_callbacks = partial(build_callbacks, ctx.setting("callbacks"))
    fitted = trainer.fit(winner.params, make_callbacks, ctx.out / "tuned", f"{entry.title} refit")
    draw_learning_curves(fitted.history, ctx.out / "learning_curves.png", f"tuned {entry.full_title}")
    tuned_loss = float(image_losses(labels, fitted.predict("valid")).mean())
    base_loss = best.valid_log_loss[best.name]
    keeps_base = base_loss <= tuned_loss
    if keeps_base:
        logger.warning("   no trial beats the base model on validation (log loss %.4f): it is kept", base_loss)
        shutil.copy2(base_models / f"base_{best.name}.h5", ctx.out / TUNED_H5.file)
    else:
        fitted.assemble().save(ctx.out / TUNED_H5.file, include_optimizer=False)
    hyperparameters = trainer.defaults() | ({} if keeps_base else winner.params)
    metrics = _evaluate(ctx.out, ctx.path(SNAPSHOTS_FOLDER), images, f"tuned {entry.full_title}")
    if abs(metrics["valid"].log_loss - min(base_loss, tuned_loss)) > PARITY_TOLERANCE:
        saved_loss = metrics["valid"].log_loss
        raise RuntimeError(f"{TUNED_H5.file} scores {saved_loss} on validation, the trained model {tuned_loss}.")
    result = TunedResult(
        data=ctx.read(SOURCE, SourceCard).card,
        **entry.model_dump(include={"name", "title", "kind", "weights"}),
        base_model_kept=keeps_base,
        hyperparameters=hyperparameters,
        trials=len(trials),
        valid_log_loss=LogLosses(base=base_loss, tuned=round(tuned_loss, 6)),
        seconds=round(time.monotonic() - start, 1),
        valid=metrics["valid"],
        test=metrics["test"],
    )
    write_record(ctx.out / TUNED_METRICS.file, result)
    write_record(ctx.out / TUNED_CARD.file, _make_card(ctx, result))
    logger.info("   tuned %s: test %s", entry.title, format_accuracy(result.test))


def _search(ctx: StageContext, trainer: Trainer, entry: ModelEntry, labels: np.ndarray) -> list[Trial]:
    """Run the trials that an interrupted run has not finished; all of them, in order.

    Args:
        ctx: of the stage.
        trainer: of the model.
        entry: the model.
        labels: of the validation images, int32 (images,).
    """
    import keras_tuner

    params: HyperparameterTuningParams = ctx.setting("hyperparameter_tuning")
    count = params.max_trials if entry.is_frozen else params.from_scratch_max_trials
    epochs = params.epochs if entry.is_frozen else params.from_scratch_epochs
    make_callbacks = partial(build_callbacks, ctx.setting("callbacks"), is_trial=True)
    space = keras_tuner.HyperParameters()
    trainer.declare(space, params)
    with progress_bar() as bar:
        task = bar.add_task("Tuning trials", total=count, note="")

        def run_trial(trial: "keras_tuner.engine.trial.Trial") -> dict[str, float]:
            start = time.monotonic()
            values = dict(trial.hyperparameters.values)
            chosen = _drop_own(values) | {"epochs": values.get("tuner/epochs", epochs)}
            folder = ctx.resume / "logs" / trial.trial_id
            shutil.rmtree(folder, ignore_errors=True)
            fitted = trainer.fit(chosen, make_callbacks, folder, f"trial {int(trial.trial_id)}")
            probabilities = fitted.predict("valid")
            bar.advance(task)
            return {
                OBJECTIVE: float(image_losses(labels, probabilities).mean()),
                "val_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
                "seconds": time.monotonic() - start,
                "epochs": chosen["epochs"],
            }

        tuner = _make_tuner(run_trial, params, space, count, epochs, ctx.setting("seed"), ctx.resume)
        bar.update(task, completed=sum(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values()))
        tuner.search(verbose=0)
    shutil.copytree(ctx.resume / "trials", ctx.out / "trials")
    if (ctx.resume / "logs").exists():
        shutil.copytree(ctx.resume / "logs", ctx.out / "logs")
    trials = [_describe(trial) for _, trial in sorted(tuner.oracle.trials.items())]
    if all(trial.score is None for trial in trials):
        raise UserError(f"No tuning trial succeeded. Got: {trials[0].message.strip().splitlines()[-1]}")
    return trials


def _make_tuner(
    run_trial: "Callable[[keras_tuner.engine.trial.Trial], dict[str, float]]",
    params: HyperparameterTuningParams,
    space: "keras_tuner.HyperParameters",
    count: int,
    epochs: int,
    seed: int,
    resume: Path,
) -> "keras_tuner.Tuner":
    """A tuner whose state lies in the resume folder, so that a crash costs one trial at most."""
    import keras_tuner

    class Search(keras_tuner.Tuner):
        def run_trial(self, trial: "keras_tuner.engine.trial.Trial", **_: Any) -> dict[str, float]:
            try:
                return run_trial(trial)
            except OSError as error:
                # A full disk is not the fault of this trial's values: stop instead of trying others.
                raise keras_tuner.errors.FatalError(str(error)) from error

    def make(overwrite: bool) -> keras_tuner.Tuner:
        oracle = _make_oracle(params.algorithm, space, count, epochs, seed)
        return Search(oracle, directory=str(resume), project_name="trials", overwrite=overwrite)

    try:
        return make(overwrite=False)
    except Exception as error:  # Keras Tuner does not write its state atomically: a crash may tear it
        logger.warning("   the record of the interrupted search is damaged (%r): it starts anew", error)
        return make(overwrite=True)


def _make_oracle(
    algorithm: str, space: "keras_tuner.HyperParameters", count: int, epochs: int, seed: int
) -> "keras_tuner.Oracle":
    """What proposes the values of the next trial."""
    from keras_tuner import Objective, oracles

    class GaussianProcess(oracles.BayesianOptimizationOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            """Propose the best of many random candidates: the usual 50 gradient searches take longer than a trial."""
            completed = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
            if len(completed) < self.num_initial_points:
                return self._random_populate_space()
            points, scores = self._vectorize_trials()
            self.gpr.fit(points, scores)
            candidates = self._random_state.uniform(size=(CANDIDATES, points.shape[1]))
            mean, deviation = self.gpr.predict(candidates, return_std=True)
            best = candidates[np.argmin(mean - self.beta * deviation)]
            return {"status": "RUNNING", "values": self._vector_to_values(best)}

    common = {"objective": Objective(OBJECTIVE, "min"), "hyperparameters": space, "seed": seed}
    if algorithm == "hyperband":
        return oracles.HyperbandOracle(max_epochs=epochs, **common)
    return GaussianProcess(max_trials=count, num_initial_points=max(2, count // 2), **common)


def _drop_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters without those that Keras Tuner adds for itself."""
    return {key: value for key, value in values.items() if not key.startswith("tuner/")}


def _describe(trial: "keras_tuner.engine.trial.Trial") -> Trial:
    """One trial as plain values; its hyperparameters under the names that a trainer takes."""
    completed = trial.status == "COMPLETED"

    def metric(name: str) -> float | None:
        return trial.metrics.get_best_value(name) if completed else None

    return Trial(
        number=int(trial.trial_id),
        status=str(trial.status),
        score=trial.score if completed else None,
        val_accuracy=metric("val_accuracy"),
        seconds=metric("seconds"),
        epochs=metric("epochs"),
        params=_drop_own(trial.hyperparameters.values),
        message=trial.message or "",
    )


def _write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """trials.csv and trials.png, in the order of the search."""
    names = sorted({name for trial in trials for name in trial.params})
    fixed = ("number", "status", "score", "val_accuracy", "seconds", "epochs")
    rows = (
        (*(getattr(trial, name) for name in fixed), *(trial.params.get(name, "") for name in names)) for trial in trials
    )
    write_table(folder / TRIALS.file, ("trial", "status", OBJECTIVE, *fixed[3:], *names), rows)
    draw_trials(trials, folder / "trials.png")


def _evaluate(folder: Path, snapshots: Path, images: LabelledImages, title: str) -> dict[str, SplitMetrics]:
    """Metrics per split of the saved .h5 file on raw pixels, which gets a copy in Keras' own format.

    This is what a user of the file gets; the test split is read here alone.
    """
    import keras

    model = keras.models.load_model(folder / TUNED_H5.file, compile=False)
    model.save(folder / TUNED_KERAS.file)
    return {
        split: write_split_results(folder, split, predict_images(model, load_snapshot(snapshots, split)), images, title)
        for split in HELD_OUT
    }


def _make_card(ctx: StageContext, result: TunedResult) -> TunedCard:
    """What prediction needs beside the weights."""
    labels = ctx.read(LABELS, ClassLabels)
    return TunedCard(
        data=result.data,
        model=result.title,
        weights=result.weights,
        classes=labels.classes,
        image_size=labels.image_size,
        resize=ctx.setting("data_preprocessing.resize"),
        fit=labels.fit,
        limits=ctx.setting("image"),
        hyperparameters=result.hyperparameters,
        sha256=sha256_file(ctx.out / TUNED_H5.file),
    )
