"""A trial of the search for a recipe: its cross-validation on the feature bank."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from metal_defects.evaluation.heads import fit_many
from metal_defects.metrics import image_losses
from metal_defects.models.trainers import FrozenTrainer, Head
from metal_defects.models.training import HeadRecipe, MakeCallbacks
from metal_defects.trust.folds import Fold, count_groups, make_folds

# A path ends where a weaker penalty only does harm: at so many times the lowest loss of the fold.
HOPELESS = 1.5


@dataclass(frozen=True)
class Sample:
    """Images that recipes are compared on.

    Attributes:
        rows: their positions in the training split, rising, (images,).
        folds: parts of the cross-validation, as positions in `rows`.
    """

    rows: np.ndarray
    folds: list[Fold]


@dataclass(frozen=True)
class RecipeScore:
    """What a recipe is worth, out of fold, at its best penalty.

    Attributes:
        l2: the best penalty.
        losses: log loss of each image times the weight of its class, nats, (images,).
        right: whether each image was named rightly, bool (images,).
        damaged_right: the same of a damaged view of each image; None where the bank has none.
    """

    l2: float
    losses: np.ndarray
    right: np.ndarray
    damaged_right: np.ndarray | None


def draw_sample(labels: np.ndarray, groups: np.ndarray, most: int, folds: int, seed: int) -> Sample:
    """About `most` images, whole groups, the classes in their shares; all where there are no more.

    Args:
        labels: of the training images, int (images,).
        groups: images of the same value show the same piece, (images,).
        most: images.
        folds: no more than the smallest class has groups.
        seed: of the draw.
    """
    rows, fewest = np.arange(len(labels)), int(count_groups(labels, groups).min())
    parts = min(round(len(labels) / most), fewest // 2)
    if parts > 1:
        rows = np.sort(make_folds(labels, groups, parts, seed)[0][1])
        fewest = int(count_groups(labels[rows], groups[rows]).min())
    return Sample(rows, make_folds(labels[rows], groups[rows], max(2, min(folds, fewest)), seed))


def score_recipe(
    trainer: FrozenTrainer, recipe: HeadRecipe, sample: Sample, make_callbacks: MakeCallbacks, title: str
) -> RecipeScore:
    """Cross-validate a recipe on some of the training images.

    Every fold follows the path of penalties; a head that is trained step by step has one penalty only.

    Args:
        trainer: of the backbone.
        recipe: what is tried.
        sample: which images.
        make_callbacks: for heads with a hidden layer.
        title: shown with the progress.
    """
    examples, damaged = trainer.examples(recipe).take(sample.rows), trainer.damaged_examples(recipe)
    judged = [examples.clean] if damaged is None else [examples.clean, damaged.clean[sample.rows]]

    def judge(fold: Fold) -> dict[float, list[np.ndarray]]:
        rest, test = fold
        heads = trainer.fit_heads(recipe, examples.take(rest), make_callbacks, title)
        return dict(_follow(heads, [features[test] for features in judged], examples.labels[test]))

    # A fit by Keras sets the seeds of the process: one at a time.
    answers = fit_many(judge, sample.folds, title, workers=1 if recipe.hidden_units else None)
    labels, order = examples.labels, np.argsort(np.concatenate([test for _, test in sample.folds]))
    weights = trainer.weigh(labels)[labels]
    shares = {
        l2: [np.concatenate(parts)[order] for parts in zip(*(answer[l2] for answer in answers), strict=True)]
        for l2 in answers[0]
        if all(l2 in answer for answer in answers)
    }
    losses = {l2: image_losses(labels, clean) * weights for l2, (clean, *_) in shares.items()}
    best = min(losses, key=lambda l2: float(losses[l2].mean()))
    clean, *others = (part.argmax(axis=1) == labels for part in shares[best])
    return RecipeScore(best, losses[best], clean, others[0] if others else None)


def _follow(
    heads: Iterator[Head], judged: list[np.ndarray], labels: np.ndarray
) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Penalty and probabilities of each head along a path, as long as there is hope that the next is the best."""
    from scipy.special import softmax

    lowest = np.inf
    for head in heads:
        shares = [softmax(head.logits(features), axis=1) for features in judged]
        loss = float(image_losses(labels, shares[0]).mean())
        yield head.l2, shares
        lowest = min(lowest, loss)
        if loss > HOPELESS * lowest:
            return
