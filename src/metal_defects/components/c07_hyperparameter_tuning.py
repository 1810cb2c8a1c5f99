"""Stage 07: Keras Tuner on the best base model; the winner is refitted, saved, and tested exactly once."""

import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np

from metal_defects.artifacts import (
    BASE_MODELS,
    BEST,
    IMAGES,
    LABELS,
    MANIFEST,
    MODELS,
    OUT_OF_FOLD,
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
from metal_defects.data.manifest import ImageRow, ManifestRow, SourceCard
from metal_defects.data.snapshots import ClassLabels, load_snapshot
from metal_defects.evaluation.cross_validation import OutOfFold
from metal_defects.evaluation.fine_tuning_trial import Kept, try_fine_tuning
from metal_defects.evaluation.recipe_search import search_recipe
from metal_defects.files import sha256_file
from metal_defects.log import logger
from metal_defects.metrics import SplitMetrics, format_accuracy, image_losses
from metal_defects.models.network_search import search_network
from metal_defects.models.results import (
    BestBase,
    FineTuning,
    Gap,
    LogLosses,
    ModelEntry,
    ModelList,
    TunedCard,
    TunedResult,
    find_winner,
)
from metal_defects.models.search import OBJECTIVE, Found
from metal_defects.models.trainers import FrozenTrainer, Trainer, make_trainer
from metal_defects.models.training import predict_images
from metal_defects.pipeline.context import StageContext
from metal_defects.plots.recipes import draw_recipes
from metal_defects.plots.training import draw_history
from metal_defects.plots.tuning import draw_trials
from metal_defects.records import write_record, write_table

PARITY_TOLERANCE = 1e-3


def run(ctx: StageContext) -> None:
    """Write trials.csv, tuned_model.h5, .keras and .json, out_of_fold.npz, metrics and plots.

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
    found = _search(ctx, trainer, entry, images)
    _write_trials(ctx.out, found)
    make_callbacks = partial(build_callbacks, ctx.setting("callbacks"))
    fitted = trainer.fit(found.values, make_callbacks, ctx.out / "tuned", f"{entry.title} refit")
    kept, fine_tuning = _fine_tune(ctx, trainer, found, images)
    if kept is not None:
        fitted = kept.fitted
    (kept.out_of_fold if kept else OutOfFold.of_none()).save(ctx.out / OUT_OF_FOLD.file)
    draw_history(fitted.history, ctx.out, f"tuned {entry.full_title}")
    tuned_loss = float(image_losses(labels, fitted.predict("valid")).mean())
    base_loss = best.valid_log_loss[best.name]
    # A recipe won on far more images than the validation split has; a network was judged by these alone.
    keeps_base = not entry.is_frozen and base_loss <= tuned_loss
    if keeps_base:
        logger.warning("   no trial beats the base model on validation (log loss %.4f): it is kept", base_loss)
        shutil.copy2(base_models / f"base_{best.name}.h5", ctx.out / TUNED_H5.file)
    else:
        fitted.assemble().save(ctx.out / TUNED_H5.file, include_optimizer=False)
    hyperparameters = trainer.defaults() | ({} if keeps_base else found.values)
    metrics = _evaluate(ctx.out, ctx.path(SNAPSHOTS_FOLDER), images, f"tuned {entry.full_title}")
    if abs(metrics["valid"].log_loss - (base_loss if keeps_base else tuned_loss)) > PARITY_TOLERANCE:
        saved_loss = metrics["valid"].log_loss
        raise RuntimeError(f"{TUNED_H5.file} scores {saved_loss} on validation, the trained model {tuned_loss}.")
    result = TunedResult(
        data=ctx.read(SOURCE, SourceCard).card,
        **entry.model_dump(include={"name", "title", "kind", "weights"}),
        base_model_kept=keeps_base,
        hyperparameters=hyperparameters,
        trials=found.trials,
        reason=found.reason,
        fine_tuning=fine_tuning,
        valid_log_loss=LogLosses(base=base_loss, tuned=round(tuned_loss, 6)),
        seconds=round(time.monotonic() - start, 1),
        valid=metrics["valid"],
        test=metrics["test"],
    )
    write_record(ctx.out / TUNED_METRICS.file, result)
    write_record(ctx.out / TUNED_CARD.file, _make_card(ctx, result))
    logger.info("   tuned %s: test %s", entry.title, format_accuracy(result.test))


def _search(ctx: StageContext, trainer: Trainer, entry: ModelEntry, images: LabelledImages) -> Found:
    """The best hyperparameters; trials that an interrupted run has finished are not done again."""
    make_callbacks = partial(build_callbacks, ctx.setting("callbacks"), is_trial=True)
    params: HyperparameterTuningParams = ctx.setting("hyperparameter_tuning")
    if isinstance(trainer, FrozenTrainer):
        groups = np.array([row.group for row in images.select("train")])
        found = search_recipe(trainer, groups, params, make_callbacks, ctx.resume)
    else:
        labels = images.labels("valid")
        found = search_network(trainer, labels, params, make_callbacks, ctx.resume, ctx.setting("seed"))
    shutil.copytree(ctx.resume / "trials", ctx.out / "trials")
    if (ctx.resume / "logs").exists():
        shutil.copytree(ctx.resume / "logs", ctx.out / "logs")
    logger.info("   %s", found.reason)
    return found


def _fine_tune(
    ctx: StageContext, trainer: Trainer, found: Found, images: LabelledImages
) -> tuple[Kept | None, FineTuning | None]:
    """The fine-tuned network where it is better, and what came of trying; None of a network trained from scratch."""
    if not isinstance(trainer, FrozenTrainer):
        return None, None
    accuracy = find_winner(found.trials, found.values).accuracy or 0.0
    known = {row.path: row for row in ctx.read_rows(MANIFEST, ManifestRow)}
    rows = [[known[row.source] for row in images.select(split)] for split in ("train", "valid")]
    for_network = partial(build_callbacks, ctx.setting("callbacks"))
    callbacks, folder = (for_network, partial(for_network, is_trial=True)), ctx.out / "fine_tuning"
    recipe = trainer.read_recipe(found.values)
    kept, result = try_fine_tuning(trainer, recipe, accuracy, rows, callbacks, folder, ctx.resume)
    logger.info("   fine-tuning: %s", result.reason)
    return kept, result


def _write_trials(folder: Path, found: Found) -> None:
    """trials.csv and trials.png, in the order of the search."""
    names = sorted({name for trial in found.trials for name in trial.params})
    measured = ("accuracy", "damaged_accuracy", "gmacs", "seconds", "epochs")
    fixed = ("number", "status", "first_look", "images", "score", *measured)
    gaps = tuple(Gap.model_fields)
    rows = (
        (
            *(getattr(trial, name) for name in fixed),
            *(getattr(trial.gap, name, "") for name in gaps),
            *(trial.params.get(name, "") for name in names),
        )
        for trial in found.trials
    )
    columns = ("trial", *fixed[1:4], OBJECTIVE, *measured, *(f"gap_{name}" for name in gaps), *names)
    write_table(folder / TRIALS.file, columns, rows)
    winner = find_winner(found.trials, found.values)
    draw = draw_trials if winner.gap is None else draw_recipes
    draw(found.trials, folder / "trials.png", winner.number)


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
        fine_tuned=result.is_fine_tuned,
        sha256=sha256_file(ctx.out / TUNED_H5.file),
    )
