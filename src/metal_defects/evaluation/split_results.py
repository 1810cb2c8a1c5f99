"""Writes what one model did on one split: metrics, predictions, confusion matrix and every misjudged image."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metal_defects.files import atomic_path, write_json
from metal_defects.metrics import classification_metrics
from metal_defects.plots.training import confusion_matrix, misjudged_grid, per_class_scores

MOST_PICTURES = 60


def read_image_rows(preprocessed: Path, split: str) -> list[dict[str, str]]:
    """Rows of images.csv of one split, in their order."""
    with (preprocessed / "images.csv").open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == split]


def write_split_results(
    folder: Path,
    split: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    preprocessed: Path,
    title: str,
) -> dict[str, Any]:
    """Write the results of one split into `folder` and return its metrics.

    Args:
        folder: receives metrics_<split>.json and .csv, predictions_<split>.csv and plots.
        split: "valid" or "test".
        labels: int32 (images,), in the order of images.csv.
        probabilities: float32 (images, classes).
        classes: names.
        preprocessed: folder of stage 02.
        title: of the plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_image_rows(preprocessed, split)
    metrics = classification_metrics(labels, probabilities, classes)
    errors = [
        {
            "source": rows[index]["source"],
            "true": classes[labels[index]],
            "predicted": classes[int(probabilities[index].argmax())],
            "confidence": round(float(probabilities[index].max()), 4),
        }
        for index in metrics["misjudged"]
    ]
    metrics["errors"] = errors
    write_json(folder / f"metrics_{split}.json", metrics)
    _write_metrics_csv(folder / f"metrics_{split}.csv", metrics)
    _write_predictions_csv(folder / f"predictions_{split}.csv", rows, labels, probabilities, classes)
    title = f"{title}: {split}"
    confusion_matrix(metrics["confusion_matrix"], classes, folder / f"confusion_matrix_{split}.png", title)
    per_class_scores(metrics, folder / f"per_class_{split}.png", title)
    shown = metrics["misjudged"][:MOST_PICTURES]
    pictures = [np.asarray(Image.open(preprocessed / rows[index]["path"])) for index in shown]
    captions = [f"{e['true']} → {e['predicted']} {e['confidence']:.2f}" for e in errors[:MOST_PICTURES]]
    misjudged_grid(pictures, captions, folder / f"misjudged_{split}.png", title)
    return metrics


def _write_metrics_csv(target: Path, metrics: dict[str, Any]) -> None:
    rows = [("all", name, metrics[name]) for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1")]
    for entry in metrics["per_class"]:
        rows += [(entry["name"], name, entry[name]) for name in ("precision", "recall", "f1")]
    with atomic_path(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("class", "metric", "value", "low_95", "high_95"))
        for name, metric, score in rows:
            writer.writerow((name, metric, *(f"{score[key]:.6f}" for key in ("value", "low", "high"))))


def _write_predictions_csv(
    target: Path, rows: list[dict[str, str]], labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    with atomic_path(target) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("source", "true", "predicted", *classes))
        for row, label, shares in zip(rows, labels, probabilities, strict=True):
            best = classes[int(shares.argmax())]
            writer.writerow((row["source"], classes[label], best, *(f"{share:.6f}" for share in shares)))
