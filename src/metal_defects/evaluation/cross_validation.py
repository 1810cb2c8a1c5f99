"""Cross-validation on a feature bank: every image is answered by heads that never saw it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_defects.errors import DataError
from metal_defects.evaluation.heads import Fit, Predict, fit_many
from metal_defects.models.linear_head import FINAL_TOLERANCE
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import Examples, HeadRecipe, MakeCallbacks
from metal_defects.trust.folds import count_groups, make_folds


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
