"""Stage 06: train every model, evaluate it, and choose the best by validation alone."""

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from metal_defects.data.snapshots import load_labels
from metal_defects.evaluation.split_results import write_split_results
from metal_defects.files import atomic_path, read_json, write_json
from metal_defects.log import logger
from metal_defects.metrics import format_accuracy
from metal_defects.models.trainers import make_trainer
from metal_defects.pipeline.runner import StageContext
from metal_defects.plots.training import leaderboard, learning_curves

RULE = (
    "Lowest log loss on the validation split; models whose loss is within one standard error of it "
    "(paired, per image) count as tied, and the one with the fewest multiply-adds wins. The test split takes no part."
)


def run(ctx: StageContext) -> None:
    """Write per model a folder and base_<model>.h5, then the leaderboard and best_base_model.json."""
    entries = read_json(ctx.artifacts / "04_model_builder" / "models.json")["models"]
    for entry in entries:
        folder = ctx.resume / entry["name"]
        if (folder / "result.json").exists():
            logger.info("   %s: kept from an interrupted run", entry["title"])
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        result = _train_and_evaluate(ctx, entry, folder)
        write_json(folder / "result.json", result)
        logger.info("   %s (%s): test %s", entry["title"], entry["weights"], format_accuracy(result["test"]))
    results = [read_json(ctx.resume / entry["name"] / "result.json") for entry in entries]
    for entry in entries:
        name = entry["name"]
        shutil.copytree(ctx.resume / name, ctx.out / name)
        (ctx.out / name / "model.h5").replace(ctx.out / f"base_{name}.h5")
    _write_leaderboard(ctx, results)
    labels = load_labels(ctx.artifacts / "03_dataset_loader", "valid")
    losses = {
        entry["name"]: image_losses(labels, np.load(ctx.out / entry["name"] / "probabilities_valid.npy"))
        for entry in entries
    }
    write_json(ctx.out / "best_base_model.json", {"data": ctx.data_source(), **choose_best(results, losses)})


def _train_and_evaluate(ctx: StageContext, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one model in `folder`; returns what result.json holds."""
    start = time.monotonic()
    trainer = make_trainer(ctx, entry)
    fitted = trainer.fit(trainer.defaults(), folder, entry["title"])
    snapshots = ctx.artifacts / "03_dataset_loader"
    classes = read_json(snapshots / "class_labels.json")["classes"]
    title = f"{entry['title']} ({entry['weights']})"
    metrics = {}
    for split in ("valid", "test"):
        probabilities = fitted.predict(split)
        labels = load_labels(snapshots, split)
        images = ctx.artifacts / "02_data_preprocessing"
        metrics[split] = write_split_results(folder, split, labels, probabilities, classes, images, title)
        np.save(folder / f"probabilities_{split}.npy", probabilities)
    learning_curves(fitted.history, folder / "learning_curves.png", title, fitted.frozen_epochs)
    fitted.assemble().save(folder / "model.h5", include_optimizer=False)
    return {
        "data": ctx.data_source(),
        **{key: entry[key] for key in ("name", "title", "kind", "weights", "gmacs", "parameters")},
        **trainer.details,
        "hyperparameters": trainer.defaults(),
        "epochs": len(fitted.history["loss"]),
        "seconds": round(time.monotonic() - start, 1),
        **metrics,
    }


def _write_leaderboard(ctx: StageContext, results: list[dict[str, Any]]) -> None:
    """leaderboard.json, .csv and .png, best validation loss first."""
    ranked = sorted(results, key=lambda result: result["valid"]["log_loss"])
    write_json(ctx.out / "leaderboard.json", {"data": ctx.data_source(), "rule": RULE, "models": ranked})
    with atomic_path(ctx.out / "leaderboard.csv") as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        parts = ("accuracy", "low_95", "high_95", "macro_f1")
        scores = [f"{split}_{part}" for split in ("valid", "test") for part in parts]
        writer.writerow(("model", "weights", "gmacs", "milliseconds_per_image", "seconds", "valid_log_loss", *scores))
        for result in ranked:
            values = []
            for split in ("valid", "test"):
                accuracy = result[split]["accuracy"]
                values += [accuracy["value"], accuracy["low"], accuracy["high"], result[split]["macro_f1"]["value"]]
            fixed = [result[key] for key in ("name", "weights", "gmacs", "milliseconds_per_image", "seconds")]
            writer.writerow((*fixed, *(f"{value:.6f}" for value in (result["valid"]["log_loss"], *values))))
    leaderboard(ranked, ctx.out / "leaderboard.png")


def choose_best(results: list[dict[str, Any]], losses: dict[str, np.ndarray]) -> dict[str, Any]:
    """The winner under RULE, with the figures that decided.

    Args:
        results: of every model.
        losses: per model, log loss of every validation image, (images,).
    """
    lowest = min(losses, key=lambda name: losses[name].mean())
    tied = []
    for result in results:
        difference = losses[result["name"]] - losses[lowest]
        standard_error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
        if difference.mean() <= standard_error:
            tied.append(result)
    best = min(tied, key=lambda result: result["gmacs"])
    return {
        "name": best["name"],
        "title": best["title"],
        "kind": best["kind"],
        "weights": best["weights"],
        "rule": RULE,
        "valid_log_loss": {name: round(float(loss.mean()), 6) for name, loss in losses.items()},
        "tied": [result["name"] for result in tied],
    }


def image_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Log loss of every image in nats, (images,)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(chosen, 1e-12))
