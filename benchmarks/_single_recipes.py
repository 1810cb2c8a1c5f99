"""Logistic regressions on a feature bank, one for every choice of taps, pooling, views, penalty and class weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from _common import Workspace, score_test

from metal_defects.config import Pooling
from metal_defects.data.snapshots import load_labels
from metal_defects.evaluation.heads import fit_many
from metal_defects.metrics import Metrics
from metal_defects.models.feature_bank import FeatureBank
from metal_defects.models.pooling import POOLINGS, STATISTICS
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.models.training import Examples

TAPS = ("deep", "default", "all")
MEAN: Literal["mean"] = "mean"
STRENGTHS = (0.003, 0.03, 0.3, 3.0)
# The order of the answers is settled long before the solution is.
MOST_STEPS = 100


@dataclass(frozen=True)
class Recipe:
    """A logistic regression on the feature bank of a run.

    Attributes:
        pooling: as the program's, or "mean" alone.
        views: "none", or "all" augmented ones of the training images besides the clean ones.
        strength: C of scikit-learn.
        balanced: whether rare classes weigh as much as others.
    """

    taps: str
    pooling: str
    views: str
    strength: float
    balanced: bool

    @property
    def title(self) -> str:
        """In one line."""
        weights = ", balanced" if self.balanced else ""
        return f"{self.taps} taps, {self.pooling}, views {self.views}, C {self.strength:g}{weights}"


def try_recipes(place: Workspace, trainer: FrozenTrainer) -> Iterator[tuple[Recipe, Metrics]]:
    """Test every single recipe on the test part of a run."""
    bank, labels = trainer.bank, load_labels(place.snapshots, "train")
    for taps, pooling, views in product(TAPS, (MEAN, *POOLINGS), ("none", "all")):
        columns = choose_columns(bank, trainer.backbone.choose_taps(taps), pooling)
        train = Examples(bank.select("train", columns, views), labels)
        rows, tested = project(train.rows, bank.clean("test", columns))
        plan = [Recipe(taps, pooling, views, *rest) for rest in product(STRENGTHS, (False, True))]

        def answer(
            recipe: Recipe, rows: np.ndarray = rows, targets: np.ndarray = train.row_labels, tested: np.ndarray = tested
        ) -> np.ndarray:
            return regress(rows, targets, tested, recipe, len(place.classes))

        for recipe, probabilities in zip(plan, fit_many(answer, plan, "Single recipes"), strict=True):
            yield recipe, score_test(place, probabilities)


def choose_columns(bank: FeatureBank, taps: Sequence[str], pooling: Pooling | Literal["mean"]) -> np.ndarray:
    """Columns of a pooling of some taps; of "mean" those that come first of each tap."""
    if pooling != MEAN:
        return bank.columns(taps, pooling)
    parts = [bank.columns([tap]) for tap in taps]
    return np.concatenate([part[: len(part) // STATISTICS["moments"]] for part in parts])


def project(rows: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised rows, (rows, columns), and test rows.

    Fewer rows than columns become their coordinates in the space that they span, which no quadratic penalty notices.
    """
    mean, variance = rows.mean(axis=0), rows.var(axis=0)
    deviation = np.sqrt(np.maximum(variance, max(1e-4 * np.median(variance), 1e-12)))
    rows, tested = (rows - mean) / deviation, (tested - mean) / deviation
    if len(rows) >= rows.shape[1]:
        return rows, tested
    basis, coordinates = np.linalg.qr(rows.T)
    return coordinates.T, tested @ basis


def regress(rows: np.ndarray, labels: np.ndarray, tested: np.ndarray, recipe: Recipe, classes: int) -> np.ndarray:
    """Probabilities of the test images, (images, classes), by logistic regression; a class without a row gets 0."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if recipe.balanced else None
    model = LogisticRegression(C=recipe.strength, class_weight=weights, max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, labels)
    probabilities = np.zeros((len(tested), classes))
    probabilities[:, model.classes_] = model.predict_proba(tested)
    return probabilities
