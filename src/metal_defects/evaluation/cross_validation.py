"""Cross-validation on a feature bank: answers out of fold, what was ever misjudged, and labels that may be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_defects.errors import DataError
from metal_defects.evaluation.heads import Fit, Predict, fit_many
from metal_defects.metrics import Metrics, Score, classification_metrics, design_effect, share
from metal_defects.models.linear_head import FINAL_TOLERANCE
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import Examples, HeadRecipe, MakeCallbacks
from metal_defects.records import Record
from metal_defects.trust.folds import count_groups, make_folds


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


class ComparedModel(Record):
    """A model against the best one on the same images.

    Attributes:
        only_best_wrong, only_this_wrong: images.
        p_value: exact McNemar, with Holm's correction; this and the like are None for the best itself.
    """

    model: str
    errors: int
    log_loss: float
    only_best_wrong: int | None
    only_this_wrong: int | None
    p_value: float | None
    more_than_chance: bool | None


@dataclass(frozen=True)
class OutOfFold:
    """Answers to every image by heads that never saw it.

    Attributes:
        labels: true classes, int (images,).
        logits: float32 (repeats, images, classes).
        folds: number of the fold that judged an image, int (repeats, images).
        groups: images of the same value show one piece of surface, (images,).
    """

    labels: np.ndarray
    logits: np.ndarray
    folds: np.ndarray
    groups: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float32 (repeats, images, classes)."""
        from scipy.special import softmax

        return softmax(self.logits, axis=-1)

    @property
    def mean_probabilities(self) -> np.ndarray:
        """Mean over the repeats, float32 (images, classes)."""
        return self.probabilities.mean(axis=0)

    @classmethod
    def of_none(cls) -> "OutOfFold":
        """No image, no answer."""
        nothing = np.zeros(0, np.int32)
        return cls(nothing, np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.int32), nothing)

    def take(self, rows: np.ndarray) -> "OutOfFold":
        """Some of the images, by position."""
        return OutOfFold(self.labels[rows], self.logits[:, rows], self.folds[:, rows], self.groups[rows])

    def save(self, path: Path) -> None:
        """Write it as .npz."""
        np.savez(path, labels=self.labels, logits=self.logits, folds=self.folds, groups=self.groups)

    @classmethod
    def load(cls, path: Path) -> "OutOfFold":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**stored)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    fit: Fit,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    what: str = "Cross-validation",
    workers: int | None = None,
) -> OutOfFold:
    """Judge every image by a head that was trained on the other folds.

    Classes keep their shares in every fold and copies of an image stay on one side. Heads are trained on all views and
    judge the clean image. Where a class has fewer groups than `folds`, there are as many folds as it has groups.

    Args:
        features: float32 (1 + views, images, columns), view 0 clean.
        labels: int (images,).
        groups: images of the same value are copies of one another, (images,).
        fit: trains a head; called from as many threads at once as there are `workers`.
        folds: at least 2.
        repeats: shuffles.
        seed: of the first shuffle; the others follow.
        what: shown with the progress.
        workers: heads that are trained at a time; one per core where None.

    Raises:
        DataError: a class has images of one group alone.
    """
    classes, fewest = int(labels.max()) + 1, int(count_groups(labels, groups).min())
    if fewest < 2:
        raise DataError("Cross-validation needs at least 2 different images of every class. Got one of some class.")
    folds = min(folds, fewest)
    logits = np.zeros((repeats, len(labels), classes), np.float32)
    numbers = np.zeros((repeats, len(labels)), np.int32)
    jobs = [
        (repeat, fold, *parts)
        for repeat in range(repeats)
        for fold, parts in enumerate(make_folds(labels, groups, folds, seed + repeat))
    ]

    def judge(job: tuple[int, int, np.ndarray, np.ndarray]) -> np.ndarray:
        repeat, _, rest, test = job
        return fit(features[:, rest], labels[rest], groups[rest], seed + repeat)(features[0, test])

    answers = fit_many(judge, jobs, what, workers)
    for (repeat, fold, _, test), answer in zip(jobs, answers, strict=True):
        logits[repeat, test] = answer
        numbers[repeat, test] = fold
    return OutOfFold(labels, logits, numbers, groups)


def cross_validate_head(
    trainer: FrozenTrainer,
    recipe: HeadRecipe,
    groups: np.ndarray,
    make_callbacks: MakeCallbacks,
    folder: Path,
    folds: int,
    repeats: int = 1,
) -> OutOfFold:
    """Answers to the training images by heads of one recipe and penalty that never saw them.

    Args:
        trainer: of the backbone.
        recipe: how each head is fitted.
        groups: images of the same value show one piece of surface, (images,).
        make_callbacks: for heads with a hidden layer.
        folder: for their logs.
        folds, repeats: as `out_of_fold` takes them.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        examples = Examples(features, labels)
        # As exactly as the model itself: a head of a weak penalty that is not at its optimum errs twice as often.
        heads = trainer.fit_heads(recipe, examples, make_callbacks, "Head", folder, tolerance=FINAL_TOLERANCE)
        return next(heads).logits

    train, seed = trainer.examples(recipe), trainer.training.seed
    # A fit by Keras sets the seeds of the process: one at a time.
    workers = 1 if recipe.hidden_units else None
    return out_of_fold(train.features, train.labels, groups, fit, folds, repeats, seed, workers=workers)


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
