"""Stage 06: train every model, evaluate it, and choose the best by validation alone."""

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from metal_defects.artifacts import (
    BEST,
    IMAGES,
    LABELS,
    LEADERBOARD,
    LEADERBOARD_PLOT,
    LEADERBOARD_TABLE,
    MODELS,
    PREPROCESSED,
    SOURCE,
)
from metal_defects.components.c05_callbacks import build_callbacks, gather_training
from metal_defects.components.split_results import HELD_OUT, LabelledImages, write_split_results
from metal_defects.data.manifest import DataCard, ImageRow, SourceCard
from metal_defects.data.snapshots import ClassLabels
from metal_defects.log import logger
from metal_defects.metrics import format_accuracy, image_losses
from metal_defects.models.results import BaseResult, BestBase, Leaderboard, ModelEntry, ModelList
from metal_defects.models.trainers import make_trainer
from metal_defects.models.training import MakeCallbacks, Training
from metal_defects.pipeline.context import StageContext
from metal_defects.plots.training import draw_history, draw_leaderboard
from metal_defects.records import read_record, write_record, write_table

RESULT = "result.json"
RULE = (
    "Lowest log loss on the validation split; models whose loss is within one standard error of it "
    "(paired, per image) count as tied, and the one with the fewest multiply-adds wins. The test split takes no part."
)


def run(ctx: StageContext) -> None:
    """Write per model a folder and base_<model>.h5, then the leaderboard and best_base_model.json."""
    entries, data = ctx.read(MODELS, ModelList).models, ctx.read(SOURCE, SourceCard).card
    classes = ctx.read(LABELS, ClassLabels).classes
    images = LabelledImages(ctx.read_rows(IMAGES, ImageRow), classes, ctx.path(PREPROCESSED))
    training, make_callbacks = gather_training(ctx), partial(build_callbacks, ctx.setting("callbacks"))
    for entry in entries:
        folder = ctx.resume / entry.name
        if (folder / RESULT).exists():
            logger.info("   %s: kept from an interrupted run", entry.title)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        result = _train_and_evaluate(entry, training, make_callbacks, images, data, folder)
        write_record(folder / RESULT, result)
        logger.info("   %s: test %s", entry.full_title, format_accuracy(result.test))
    names = [entry.name for entry in entries]
    results = [read_record(ctx.resume / name / RESULT, BaseResult) for name in names]
    for name in names:
        shutil.copytree(ctx.resume / name, ctx.out / name)
        (ctx.out / name / "model.h5").replace(ctx.out / f"base_{name}.h5")
    _write_leaderboard(ctx.out, results, data)
    labels = images.labels("valid")
    losses = {name: image_losses(labels, np.load(ctx.out / name / "probabilities_valid.npy")) for name in names}
    write_record(ctx.out / BEST.file, choose_best(results, losses))


def _train_and_evaluate(
    entry: ModelEntry,
    training: Training,
    make_callbacks: MakeCallbacks,
    images: LabelledImages,
    data: DataCard,
    folder: Path,
) -> BaseResult:
    """Train one model in `folder`."""
    start = time.monotonic()
    trainer = make_trainer(entry, training)
    fitted = trainer.fit(trainer.defaults(), make_callbacks, folder, entry.title)
    metrics = {}
    for split in HELD_OUT:
        probabilities = fitted.predict(split)
        metrics[split] = write_split_results(folder, split, probabilities, images, entry.full_title)
        np.save(folder / f"probabilities_{split}.npy", probabilities)
    draw_history(fitted.history, folder, entry.full_title)
    fitted.assemble().save(folder / "model.h5", include_optimizer=False)
    return BaseResult(
        data=data,
        **entry.model_dump(include={"name", "title", "kind", "weights", "gmacs", "parameters"}),
        **trainer.method._asdict(),
        hyperparameters=trainer.defaults() | ({} if fitted.l2 is None else {"l2": fitted.l2}),
        epochs=len(fitted.history.get("loss", ())),
        seconds=round(time.monotonic() - start, 1),
        valid=metrics["valid"],
        test=metrics["test"],
    )


def _write_leaderboard(folder: Path, results: Sequence[BaseResult], data: DataCard) -> None:
    """leaderboard.json, .csv and .png, best validation loss first."""
    ranked = sorted(results, key=lambda result: result.valid.log_loss)
    write_record(folder / LEADERBOARD.file, Leaderboard(data=data, rule=RULE, models=tuple(ranked)))
    fixed = ("model", "weights", "gmacs", "milliseconds_per_image", "seconds", "valid_log_loss")
    parts = ("accuracy", "low_95", "high_95", "macro_f1")
    columns = (*fixed, *(f"{split}_{part}" for split in HELD_OUT for part in parts))
    write_table(folder / LEADERBOARD_TABLE.file, columns, map(_list_scores, ranked))
    draw_leaderboard(ranked, folder / LEADERBOARD_PLOT.file)


def _list_scores(result: BaseResult) -> tuple[str | float | None, ...]:
    """A row of leaderboard.csv."""
    scores = [result.valid.log_loss]
    for metrics in (result.valid, result.test):
        scores += [metrics.accuracy.value, metrics.accuracy.low, metrics.accuracy.high, metrics.macro_f1.value]
    fixed = (result.name, result.weights, result.gmacs, result.milliseconds_per_image, result.seconds)
    return (*fixed, *(f"{score:.6f}" for score in scores))


def choose_best(results: Sequence[BaseResult], losses: Mapping[str, np.ndarray]) -> BestBase:
    """The winner under RULE, with the figures that decided.

    Args:
        results: of every model.
        losses: per model, log loss of every validation image, (images,).
    """
    lowest = min(losses, key=lambda name: losses[name].mean())
    tied = []
    for result in results:
        difference = losses[result.name] - losses[lowest]
        standard_error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
        if difference.mean() <= standard_error:
            tied.append(result)
    best = min(tied, key=lambda result: result.gmacs)
    return BestBase(
        **best.model_dump(include={"data", "name", "title", "kind", "weights"}),
        rule=RULE,
        valid_log_loss={name: round(float(loss.mean()), 6) for name, loss in losses.items()},
        tied=tuple(result.name for result in tied),
    )
