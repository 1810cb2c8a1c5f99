"""What cross-validation found: accuracy, every image that was ever misjudged, and labels that may be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metal_defects.evaluation.cross_validation import OutOfFold
from metal_defects.metrics import Metrics, Score, classification_metrics, design_effect, share
from metal_defects.records import Record


class Round(Record):
    """One shuffle: errors of its images, and the standard deviation of the accuracy over its folds."""

    repeat: int
    errors: int
    accuracy: float
    spread_of_folds: float | None


class Misjudged(Record):
    """An image that was ever called something else.

    Attributes:
        times: in how many rounds.
        picture: below the folder of stage 02.
        other_boxes: classes of its boxes besides its own.
    """

    source: str
    true: str
    predicted: str
    confidence: float
    probabilities: dict[str, float]
    times: int
    picture: str
    other_boxes: tuple[str, ...]


class Suspect(Record):
    """An image whose label may be wrong."""

    source: str
    picture: str
    label: str
    suggested: str
    confidence: float


class CrossValidation(Record):
    """Answers out of fold, judged; `metrics` are those of the mean answer of the rounds."""

    metrics: Metrics
    accuracy: Score
    repeats: tuple[Round, ...]
    misjudged: tuple[Misjudged, ...]
    suspects: tuple[Suspect, ...]


@dataclass(frozen=True)
class ImageNames:
    """How the images that were judged are called.

    Attributes:
        sources: paths in the manifest.
        pictures: paths below the folder of stage 02.
        other_boxes: of each image, classes of its boxes besides its own.
    """

    sources: Sequence[str]
    pictures: Sequence[str]
    other_boxes: Sequence[tuple[str, ...]]


def judge_folds(found: OutOfFold, classes: Sequence[str], names: ImageNames) -> CrossValidation:
    """Accuracy, every image ever misjudged, and labels that may be wrong.

    Args:
        found: of `out_of_fold`.
        classes: names.
        names: of the images.
    """
    right = found.probabilities.argmax(axis=2) == found.labels
    mean = found.mean_probabilities
    # Repeats judge the same images: they steady the mean, but the interval is that of one look at each.
    effect = float(np.mean([design_effect(row, found.groups) for row in right]))
    interval = share(round(float(right.mean()) * right.shape[1]), right.shape[1], effect)
    return CrossValidation(
        metrics=classification_metrics(found.labels, mean, classes, groups=found.groups),
        accuracy=interval.model_copy(update={"value": float(right.mean())}),
        repeats=tuple(
            Round(
                repeat=repeat + 1,
                errors=int((~row).sum()),
                accuracy=float(row.mean()),
                spread_of_folds=_spread([float(row[folds == fold].mean()) for fold in np.unique(folds)]),
            )
            for repeat, (row, folds) in enumerate(zip(right, found.folds, strict=True))
        ),
        misjudged=_list_misjudged(found, mean, right, classes, names),
        suspects=tuple(
            Suspect(
                source=names.sources[index],
                picture=names.pictures[index],
                label=classes[found.labels[index]],
                suggested=classes[int(mean[index].argmax())],
                confidence=float(mean[index].max()),
            )
            for index in find_label_suspects(found.labels, mean)
        ),
    )


def _list_misjudged(
    found: OutOfFold, mean: np.ndarray, right: np.ndarray, classes: Sequence[str], names: ImageNames
) -> tuple[Misjudged, ...]:
    """Every image that was ever called something else, with what it was called first."""
    answers = found.probabilities.argmax(axis=2)
    return tuple(
        Misjudged(
            source=names.sources[index],
            true=classes[found.labels[index]],
            predicted=classes[int(answers[np.argmin(right[:, index]), index])],
            confidence=float(mean[index].max()),
            probabilities=dict(zip(classes, mean[index].tolist(), strict=True)),
            times=int((~right[:, index]).sum()),
            picture=names.pictures[index],
            other_boxes=names.other_boxes[index],
        )
        for index in np.flatnonzero(~right.all(axis=0)).tolist()
    )


def _spread(accuracies: Sequence[float]) -> float | None:
    """Standard deviation; None of a single value."""
    return float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None


def find_label_suspects(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Images whose label may be wrong, by confident learning: positions, the least self-confident first.

    An image counts for class j when its probability of j reaches the mean that the images labelled j give to j; of
    several such classes the most probable one counts. An image that counts for another class than its label, and is
    answered so, is a suspect. C. Northcutt, L. Jiang & I. Chuang, Journal of AI Research 70 (2021) 1373-1411: the
    off-diagonal of the confident joint.

    Args:
        labels: as given, int (images,).
        probabilities: out of fold, (images, classes).
    """
    classes = probabilities.shape[1]
    thresholds = np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else np.inf
            for label in range(classes)
        ]
    )
    reached = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    counted = np.where(reached.max(axis=1) < 0, labels, reached.argmax(axis=1))
    suspects = np.flatnonzero((counted != labels) & (probabilities.argmax(axis=1) != labels))
    return suspects[np.argsort(probabilities[suspects, labels[suspects]], kind="stable")]
