"""Cross-validation on a feature bank: answers out of fold, what was ever misjudged, and whether "best" is chance."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from metal_defects.errors import DataError
from metal_defects.log import track
from metal_defects.metrics import Metrics, Score, accuracy_interval, classification_metrics
from metal_defects.records import Record
from metal_defects.trust.calibration import negative_log_likelihood

Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Predict]
"""Takes features (1 + views, images, columns), labels (images,), groups (images,) and a seed; returns what turns
features (rows, columns) into logits (rows, classes), up to a constant per row: log-probabilities will do."""


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
    """

    labels: np.ndarray
    logits: np.ndarray
    folds: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float32 (repeats, images, classes)."""
        return softmax(self.logits)

    @property
    def mean_probabilities(self) -> np.ndarray:
        """Mean over the repeats, float32 (images, classes)."""
        return self.probabilities.mean(axis=0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis; shape and type as given."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    fit: Fit,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
) -> OutOfFold:
    """Judge every image by a head that was trained on the other folds.

    Classes keep their shares in every fold and copies of an image stay on one side. Heads are trained on all views and
    judge the clean image. Where a class has fewer groups than `folds`, there are as many folds as it has groups.

    Args:
        features: float32 (1 + views, images, columns), view 0 clean.
        labels: int (images,).
        groups: images of the same value are copies of one another, (images,).
        fit: trains a head.
        folds: at least 2.
        repeats: shuffles.
        seed: of the first shuffle; the others follow.

    Raises:
        DataError: a class has images of one group alone.
    """
    classes = int(labels.max()) + 1
    groups = np.unique(groups, return_inverse=True)[1]
    fewest = min(len(set(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:
        raise DataError("Cross-validation needs at least 2 different images of every class. Got one of some class.")
    folds = min(folds, fewest)
    logits = np.zeros((repeats, len(labels), classes), np.float32)
    numbers = np.zeros((repeats, len(labels)), np.int32)
    for repeat, fold, rest, test in track(
        _split(labels, groups, folds, repeats, seed), "Cross-validation", total=folds * repeats
    ):
        predict = fit(features[:, rest], labels[rest], groups[rest], seed + repeat)
        logits[repeat, test] = predict(features[0, test])
        numbers[repeat, test] = fold
    return OutOfFold(labels, logits, numbers)


def _split(
    labels: np.ndarray, groups: np.ndarray, folds: int, repeats: int, seed: int
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold

    for repeat in range(repeats):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
        for fold, (rest, test) in enumerate(splitter.split(labels, labels, groups)):
            yield repeat, fold, rest, test


def hold_out(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images that stay and of those held out: a stratified `share`, copies together."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(max(2, round(1 / share)), shuffle=True, random_state=seed)
    return next(splitter.split(labels, labels, groups))


def fit_convex_head(strength: float = 1.0) -> Fit:
    """Multinomial logistic regression on standardised features: one optimum, no seed, seconds instead of minutes.

    Args:
        strength: C of scikit-learn: the inverse of the weight decay.
    """

    def fit(features: np.ndarray, labels: np.ndarray, _groups: np.ndarray, _seed: int) -> Predict:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        rows = features.reshape(-1, features.shape[-1])
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        # As in the product's head: a channel that never varies in training must not be blown up when it does in use.
        deviation = np.sqrt(np.maximum(variance, max(1e-4 * np.median(variance), 1e-12)))
        model = LogisticRegression(C=strength, max_iter=200)
        with warnings.catch_warnings():
            # 200 steps are far more than the order of the answers needs.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((rows - mean) / deviation, np.tile(labels, len(features)))

        def predict(columns: np.ndarray) -> np.ndarray:
            scores = model.decision_function((columns - mean) / deviation)
            if scores.ndim == 1:
                scores = np.stack([np.zeros_like(scores), scores], axis=1)
            logits = np.full((len(columns), int(model.classes_.max()) + 1), -1e3, np.float32)
            logits[:, model.classes_] = scores
            return logits

        return predict

    return fit


def summarise(result: OutOfFold, sources: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Metrics, mean, spread and interval of the accuracy, and every image ever misjudged, ready for JSON.

    `metrics` are those of the mean answer of the repeats.

    Args:
        result: of `out_of_fold`.
        sources: paths of the images.
        classes: names.
    """
    answers = result.probabilities.argmax(axis=2)
    right = answers == result.labels
    rounds = [
        {
            "repeat": repeat + 1,
            "errors": int((~row).sum()),
            "accuracy": float(row.mean()),
            "spread_of_folds": _spread([float(row[folds == fold].mean()) for fold in np.unique(folds)]),
        }
        for repeat, (row, folds) in enumerate(zip(right, result.folds, strict=True))
    ]
    # Repeats judge the same images: they steady the mean, but the interval is that of one look at each.
    low, high = accuracy_interval(round(float(right.mean()) * right.shape[1]), right.shape[1])
    mean = result.mean_probabilities
    wrong = [
        {
            "source": sources[index],
            "true": classes[result.labels[index]],
            "predicted": classes[int(answers[repeat, index])],
            "confidence": float(mean[index].max()),
            "probabilities": dict(zip(classes, mean[index].tolist(), strict=True)),
            "times": int((~right[:, index]).sum()),
        }
        for index in np.flatnonzero(~right.all(axis=0))
        for repeat in [int(np.argmin(right[:, index]))]
    ]
    return {
        "metrics": classification_metrics(result.labels, mean, classes),
        "accuracy": {"value": float(right.mean()), "low": low, "high": high},
        "repeats": rounds,
        "misjudged": wrong,
    }


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


def compare_answers(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """p value of the exact McNemar test, two-sided: the chance of so uneven a split of the images judged differently.

    Q. McNemar, Psychometrika 12 (1947) 153-157; recommended for one training of each model by T. Dietterich, Neural
    Computation 10 (1998) 1895-1923.

    Args:
        first_right, second_right: whether each answered the same images rightly, bool (images,).
    """
    fewer, more = sorted((int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())))
    differing = fewer + more
    return min(1.0, 2 * sum(comb(differing, hits) for hits in range(fewer + 1)) / 2**differing)


def compare_models(labels: np.ndarray, answers: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every model against the best one on the same images, the best first.

    Args:
        labels: int (images,).
        answers: per model, out-of-fold probabilities (images, classes).

    Returns:
        Rows of `model`, `errors`, `log_loss`, `only_best_wrong`, `only_this_wrong` (images), `p_value` (exact McNemar,
        Holm's correction for several comparisons, Scandinavian Journal of Statistics 6 (1979) 65-70) and
        `more_than_chance` (p below 0.05); the last four are None for the best itself.
    """
    right = {name: rows.argmax(axis=1) == labels for name, rows in answers.items()}
    losses = {name: negative_log_likelihood(rows, labels) for name, rows in answers.items()}
    ranked = sorted(answers, key=lambda name: (int((~right[name]).sum()), losses[name], name))
    best, others = ranked[0], ranked[1:]
    raw = {name: compare_answers(right[best], right[name]) for name in others}
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(others, key=lambda name: raw[name])):
        largest = max(largest, min(1.0, (len(others) - place) * raw[name]))
        corrected[name] = largest
    return [
        {
            "model": name,
            "errors": int((~right[name]).sum()),
            "log_loss": losses[name],
            "only_best_wrong": None if name == best else int((~right[best] & right[name]).sum()),
            "only_this_wrong": None if name == best else int((right[best] & ~right[name]).sum()),
            "p_value": corrected.get(name),
            "more_than_chance": None if name == best else corrected[name] < 0.05,
        }
        for name in ranked
    ]
