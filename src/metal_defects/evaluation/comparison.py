"""Model comparison: out-of-fold answers of every base model with a feature bank, under the same convex head."""

from collections.abc import Iterable

import numpy as np

from metal_defects.evaluation.cross_validation import out_of_fold
from metal_defects.evaluation.ensemble import Cost
from metal_defects.evaluation.heads import fit_convex_head
from metal_defects.evaluation.tuned_run import Split
from metal_defects.models.results import ModelEntry
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.models.training import Training

Answers = dict[str, np.ndarray]


def answer_with_all(
    entries: Iterable[ModelEntry], training: Training, train: Split, folds: int
) -> tuple[Answers, dict[str, Cost]]:
    """Probabilities of every base model whose backbone is frozen, (images, classes), and what an image costs.

    All get the same convex head: what is compared are the backbones.

    Args:
        entries: base models; those that are trained as a whole are left out.
        training: how they were trained.
        train: the images.
        folds: at least 2.
    """
    answers, costs = {}, {}
    for entry in entries:
        trainer = make_trainer(entry, training)
        if not isinstance(trainer, FrozenTrainer):
            continue
        features = trainer.bank.features["train"][:, :, trainer.bank.columns(trainer.backbone.default_taps)]
        found = out_of_fold(
            features, train.labels, train.groups, fit_convex_head(), folds, seed=training.seed, what=entry.title
        )
        answers[entry.name] = found.probabilities[0]
        costs[entry.name] = Cost(entry.gmacs, trainer.method.milliseconds_per_image)
    return answers, costs
