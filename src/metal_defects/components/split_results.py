"""Held-out evaluation of one model: metrics, predictions, confusion matrix and every misjudged image of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from metal_defects.config import SplitName
from metal_defects.data.manifest import ImageRow
from metal_defects.metrics import Metrics, Misnamed, SplitMetrics, classification_metrics
from metal_defects.plots.training import draw_class_scores, draw_confusion_matrix, draw_misjudged
from metal_defects.records import write_record, write_table

HELD_OUT: tuple[SplitName, ...] = ("valid", "test")
MOST_PICTURES = 60


@dataclass(frozen=True)
class LabelledImages:
    """The preprocessed images.

    Attributes:
        rows: of all splits, in the order of images.csv.
        classes: names in the order of their indices.
        folder: that the paths in `rows` start from.
    """

    rows: Sequence[ImageRow]
    classes: tuple[str, ...]
    folder: Path

    def select(self, split: SplitName) -> list[ImageRow]:
        """The rows of one split."""
        return [row for row in self.rows if row.split == split]

    def labels(self, split: SplitName) -> np.ndarray:
        """Class indices of one split, int32 (images,)."""
        return np.array([self.classes.index(row.label) for row in self.select(split)], np.int32)


def write_split_results(
    folder: Path, split: SplitName, probabilities: np.ndarray, images: LabelledImages, title: str
) -> SplitMetrics:
    """Write the results of one split into `folder` and return its metrics.

    Args:
        folder: receives metrics_<split>.json and .csv, predictions_<split>.csv and plots.
        split: "valid" or "test".
        probabilities: float32 (images, classes), in the order of images.csv.
        images: of all splits.
        title: of the plots.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, classes, labels = images.select(split), images.classes, images.labels(split)
    found = classification_metrics(labels, probabilities, classes, groups=np.array([row.group for row in rows]))
    errors = tuple(
        Misnamed(
            source=rows[index].source,
            true=rows[index].label,
            predicted=classes[int(probabilities[index].argmax())],
            confidence=round(float(probabilities[index].max()), 4),
        )
        for index in found.misjudged
    )
    metrics = SplitMetrics(**dict(found), errors=errors)
    write_record(folder / f"metrics_{split}.json", metrics)
    _write_metrics_table(folder / f"metrics_{split}.csv", metrics)
    _write_predictions(folder / f"predictions_{split}.csv", rows, probabilities, classes)
    title = f"{title}: {split}"
    draw_confusion_matrix(metrics.confusion_matrix, classes, folder / f"confusion_matrix_{split}.png", title)
    draw_class_scores(metrics, folder / f"per_class_{split}.png", title)
    pictures = [np.asarray(Image.open(images.folder / rows[index].path)) for index in found.misjudged[:MOST_PICTURES]]
    captions = [f"{error.true} → {error.predicted} {error.confidence:.2f}" for error in errors[:MOST_PICTURES]]
    draw_misjudged(pictures, captions, folder / f"misjudged_{split}.png", title)
    return metrics


def _write_metrics_table(target: Path, metrics: Metrics) -> None:
    names = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
    scores = [("all", name, getattr(metrics, name)) for name in names]
    parts = ("precision", "recall", "f1")
    scores += [(entry.name, name, getattr(entry, name)) for entry in metrics.per_class for name in parts]
    cells = ((*known, *(f"{value:.6f}" for value in (score.value, score.low, score.high))) for *known, score in scores)
    write_table(target, ("class", "metric", "value", "low_95", "high_95"), cells)


def _write_predictions(
    target: Path, rows: Sequence[ImageRow], probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    best = [classes[index] for index in probabilities.argmax(axis=1)]
    cells = (
        (row.source, row.label, name, *(f"{share:.6f}" for share in shares))
        for row, name, shares in zip(rows, best, probabilities, strict=True)
    )
    write_table(target, ("source", "true", "predicted", *classes), cells)
