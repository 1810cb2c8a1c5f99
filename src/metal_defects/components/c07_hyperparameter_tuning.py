"""Stage 07: Keras Tuner on the best base model; the winner is refitted, saved, and tested exactly once."""

import csv
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metal_defects.components.c06_model_training_evaluation import image_losses
from metal_defects.config import HyperparameterTuningParams
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.errors import UserError
from metal_defects.evaluation.split_results import write_split_results
from metal_defects.files import atomic_path, read_json, sha256_file, write_json
from metal_defects.log import logger, progress_bar
from metal_defects.metrics import format_accuracy
from metal_defects.models.trainers import Trainer, make_trainer
from metal_defects.models.training import predict_images
from metal_defects.pipeline.runner import StageContext
from metal_defects.plots.training import learning_curves
from metal_defects.plots.tuning import tuning_trials

if TYPE_CHECKING:
    import keras_tuner

OBJECTIVE = "val_log_loss"
PARITY_TOLERANCE = 1e-3


def run(ctx: StageContext) -> None:
    """Write trials.csv, tuned_model.h5, .keras and .json, metrics and plots.

    Raises:
        UserError: no trial succeeded.
    """
    start = time.monotonic()
    base_folder = ctx.artifacts / "06_model_training_evaluation"
    best = read_json(base_folder / "best_base_model.json")
    models = read_json(ctx.artifacts / "04_model_builder" / "models.json")["models"]
    entry = next(model for model in models if model["name"] == best["name"])
    logger.info("   tuning %s (%s)", entry["title"], entry["weights"])
    trainer = make_trainer(ctx, entry)
    labels = load_labels(ctx.artifacts / "03_dataset_loader", "valid")
    trials = _search(ctx, trainer, entry, labels)
    _write_trials(ctx.out, trials)
    winner = min((trial for trial in trials if trial["status"] == "COMPLETED"), key=lambda trial: trial["score"])
    fitted = trainer.fit(winner["params"], ctx.out / "tuned", f"{entry['title']} refit")
    learning_curves(fitted.history, ctx.out / "learning_curves.png", f"tuned {entry['title']} ({entry['weights']})")
    tuned_loss = float(image_losses(labels, fitted.predict("valid")).mean())
    base_loss = best["valid_log_loss"][best["name"]]
    keeps_base = base_loss <= tuned_loss
    if keeps_base:
        logger.warning("   no trial beats the base model on validation (log loss %.4f): it is kept", base_loss)
        shutil.copy2(base_folder / f"base_{best['name']}.h5", ctx.out / "tuned_model.h5")
    else:
        fitted.assemble().save(ctx.out / "tuned_model.h5", include_optimizer=False)
    _save_keras(ctx.out)
    metrics = _evaluate(ctx, entry)
    saved_loss = metrics["valid"]["log_loss"]
    if abs(saved_loss - min(base_loss, tuned_loss)) > PARITY_TOLERANCE:
        raise RuntimeError(f"tuned_model.h5 scores {saved_loss} on validation, the trained model {tuned_loss}.")
    hyperparameters = trainer.defaults() | ({} if keeps_base else winner["params"])
    result = {
        "data": ctx.data_source(),
        **{key: entry[key] for key in ("name", "title", "kind", "weights")},
        "base_model_kept": keeps_base,
        "hyperparameters": hyperparameters,
        "trials": len(trials),
        "valid_log_loss": {"base": base_loss, "tuned": round(tuned_loss, 6)},
        "seconds": round(time.monotonic() - start, 1),
        **metrics,
    }
    write_json(ctx.out / "metrics.json", result)
    _write_model_card(ctx, result)
    logger.info("   tuned %s: test %s", entry["title"], format_accuracy(metrics["test"]))


def _search(
    ctx: StageContext, trainer: Trainer, entry: dict[str, Any], labels: np.ndarray
) -> list[dict[str, Any]]:
    """Run the trials that an interrupted run has not finished; all of them, in order."""
    import keras_tuner

    params = ctx.settings.params.hyperparameter_tuning
    frozen = entry["kind"] == "frozen"
    count, epochs = (
        (params.max_trials, params.epochs) if frozen else (params.from_scratch_max_trials, params.from_scratch_epochs)
    )
    space = keras_tuner.HyperParameters()
    trainer.declare(space, params)
    with progress_bar() as bar:
        task = bar.add_task("Tuning trials", total=count, note="")

        def run_trial(trial: "keras_tuner.engine.trial.Trial") -> dict[str, float]:
            start = time.monotonic()
            values = dict(trial.hyperparameters.values)
            chosen = {key: value for key, value in values.items() if not key.startswith("tuner/")}
            chosen["epochs"] = values.get("tuner/epochs", epochs)
            folder = ctx.resume / "logs" / trial.trial_id
            shutil.rmtree(folder, ignore_errors=True)
            probabilities = trainer.fit(chosen, folder, f"trial {int(trial.trial_id)}").predict("valid")
            accuracy = float((probabilities.argmax(axis=1) == labels).mean())
            bar.advance(task)
            return {
                OBJECTIVE: float(image_losses(labels, probabilities).mean()),
                "val_accuracy": accuracy,
                "seconds": time.monotonic() - start,
                "epochs": chosen["epochs"],
            }

        tuner = _make_tuner(run_trial, params, space, count, epochs, ctx)
        bar.update(task, completed=sum(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values()))
        tuner.search(verbose=0)
    shutil.copytree(ctx.resume / "trials", ctx.out / "trials")
    if (ctx.resume / "logs").exists():
        shutil.copytree(ctx.resume / "logs", ctx.out / "logs")
    trials = [_describe(trial) for _, trial in sorted(tuner.oracle.trials.items())]
    if not any(trial["status"] == "COMPLETED" for trial in trials):
        raise UserError(f"No tuning trial succeeded. Got: {trials[0]['message'].strip().splitlines()[-1]}")
    return trials


def _make_tuner(
    run_trial: "Callable[[keras_tuner.engine.trial.Trial], dict[str, float]]",
    params: HyperparameterTuningParams,
    space: "keras_tuner.HyperParameters",
    count: int,
    epochs: int,
    ctx: StageContext,
) -> "keras_tuner.Tuner":
    """A tuner whose state lies in the resume folder, so that a crash costs one trial at most."""
    import keras_tuner

    is_hyperband = params.algorithm == "hyperband"
    base = keras_tuner.Hyperband if is_hyperband else keras_tuner.BayesianOptimization

    class Search(base):
        def run_trial(self, trial: "keras_tuner.engine.trial.Trial", **_: Any) -> dict[str, float]:
            try:
                return run_trial(trial)
            except OSError as error:
                # A full disk is not the fault of this trial's values: stop instead of trying others.
                raise keras_tuner.errors.FatalError(str(error)) from error

    length = {"max_epochs": epochs} if is_hyperband else {"max_trials": count, "num_initial_points": max(2, count // 2)}
    options = {
        "hypermodel": None,
        "objective": keras_tuner.Objective(OBJECTIVE, "min"),
        "hyperparameters": space,
        "seed": ctx.settings.params.seed,
        "directory": str(ctx.resume),
        "project_name": "trials",
        **length,
    }
    try:
        return Search(**options, overwrite=False)
    except Exception as error:  # Keras Tuner does not write its state atomically: a crash may tear it
        logger.warning("   the record of the interrupted search is damaged (%r): it starts anew", error)
        return Search(**options, overwrite=True)


def _describe(trial: "keras_tuner.engine.trial.Trial") -> dict[str, Any]:
    """One trial as plain values; its hyperparameters under the names that a trainer takes."""
    values = dict(trial.hyperparameters.values)
    params = {key: value for key, value in values.items() if not key.startswith("tuner/")}
    completed = trial.status == "COMPLETED"

    def metric(name: str) -> float | None:
        return trial.metrics.get_best_value(name) if completed else None

    return {
        "number": int(trial.trial_id),
        "status": str(trial.status),
        "score": trial.score if completed else None,
        "val_accuracy": metric("val_accuracy"),
        "seconds": metric("seconds"),
        "epochs": metric("epochs"),
        "params": params,
        "message": trial.message or "",
    }


def _write_trials(folder: Path, trials: list[dict[str, Any]]) -> None:
    """trials.csv and trials.png, in the order of the search."""
    names = sorted({name for trial in trials for name in trial["params"]})
    fixed = ("number", "status", "score", "val_accuracy", "seconds", "epochs")
    with atomic_path(folder / "trials.csv") as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("trial", "status", OBJECTIVE, *fixed[3:], *names))
        for trial in trials:
            writer.writerow((*(trial[key] for key in fixed), *(trial["params"].get(name, "") for name in names)))
    tuning_trials(trials, folder / "trials.png")


def _save_keras(folder: Path) -> None:
    """The same model in Keras' own format."""
    import keras

    keras.models.load_model(folder / "tuned_model.h5", compile=False).save(folder / "tuned_model.keras")


def _evaluate(ctx: StageContext, entry: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the saved .h5 file on raw pixels: what a user of the file gets. The test split is read here alone."""
    import keras

    snapshots, images = ctx.artifacts / "03_dataset_loader", ctx.artifacts / "02_data_preprocessing"
    classes = read_json(snapshots / "class_labels.json")["classes"]
    model = keras.models.load_model(ctx.out / "tuned_model.h5", compile=False)
    title = f"tuned {entry['title']} ({entry['weights']})"
    metrics = {}
    for split in ("valid", "test"):
        probabilities = predict_images(model, load_snapshot(snapshots, split))
        labels = load_labels(snapshots, split)
        metrics[split] = write_split_results(ctx.out, split, labels, probabilities, classes, images, title)
    return metrics


def _write_model_card(ctx: StageContext, result: dict[str, Any]) -> None:
    """tuned_model.json: what prediction needs beside the weights."""
    settings = ctx.settings
    card = {
        "data": result["data"],
        "model": result["title"],
        "weights": result["weights"],
        "classes": read_json(ctx.artifacts / "03_dataset_loader" / "class_labels.json")["classes"],
        "image_size": settings.params.data_preprocessing.image_size,
        "resize": settings.params.data_preprocessing.resize,
        "limits": settings.data_schema.image.model_dump(mode="json"),
        "hyperparameters": result["hyperparameters"],
        "sha256": sha256_file(ctx.out / "tuned_model.h5"),
    }
    write_json(ctx.out / "tuned_model.json", card)
