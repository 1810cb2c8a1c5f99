"""Accuracy on damaged images, and whether the verdicts notice."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from metal_defects.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from metal_defects.log import track
from metal_defects.metrics import Score, accuracy_interval
from metal_defects.records import Record

Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
Accepts = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
BATCH = 8
IMAGES_PER_CELL = 120


class Undamaged(Record):
    """The same images as they were: accuracy, share accepted, share wrong and accepted."""

    accuracy: Score
    accepted: float | None
    silent_errors: float | None


class Robustness(Record):
    """Answers to damaged images; what rests on verdicts is None without them.

    Attributes:
        images: per kind and severity.
        levels, units: of each kind, by severity.
        accuracy: of each kind, by severity.
        mean: accuracy over the kinds, by severity.
        accepted, silent_errors: shares of the images, of each kind, by severity.
        errors_accepted: of all wrong answers the share that was accepted; None where none was wrong.
    """

    images: int
    clean: Undamaged
    severities: tuple[int, ...]
    levels: dict[str, tuple[float, ...]]
    units: dict[str, str]
    accuracy: dict[str, tuple[Score, ...]]
    mean: tuple[float, ...]
    accepted: dict[str, tuple[float, ...]] | None
    silent_errors: dict[str, tuple[float, ...]] | None
    silent_errors_mean: tuple[float, ...] | None
    errors_accepted: float | None


def measure_robustness(
    classify: Classify,
    images: Sequence[np.ndarray] | np.ndarray,
    labels: np.ndarray,
    accepts: Accepts | None = None,
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    images_per_cell: int = IMAGES_PER_CELL,
    seed: int = 0,
) -> dict[str, Any]:
    """Damage a sample of held-out images in every way and severity, and classify it.

    All cells see the same images, evenly drawn from the classes; the damage depends on the seed, the cell and the
    image's place alone. 120 images per cell make 80 cells of 9,600 images: about 40 s at 4 ms each.

    Args:
        classify: uint8 (batch, side, side, 3) to probabilities (batch, classes) and guard distance (batch,) or None;
            called from several threads at once.
        images: uint8 (images, side, side, 3), none of them seen in training.
        labels: int (images,).
        accepts: probabilities and distance to bool (batch,): whether nobody would look at the answer again.
        names: rows of `CORRUPTIONS`.
        severities: of 1 to 5.
        images_per_cell: at most.
        seed: of the sample and the damage.

    Returns:
        `images` (per cell), `clean` (accuracy and, with `accepts`, the shares below), `severities`, `levels` and
        `units` per corruption; `accuracy` per corruption: a list of {"value", "low", "high"} by severity; `mean`
        accuracy by severity. With `accepts` also `accepted` (share of images) and `silent_errors` (share of images
        wrong and accepted) per corruption and severity, `silent_errors_mean` by severity, and `errors_accepted`: of
        all wrong answers on damaged images, the share that was accepted, None where none was wrong.
    """
    chosen = _sample(labels, images_per_cell, seed)
    truth = labels[chosen]
    cells = [(name, severity) for name in names for severity in severities]
    jobs = [("", 0), *cells]
    answers = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, severity in track(jobs, "Damaged images", total=len(jobs)):

            def judge(first: int, name: str = name, severity: int = severity) -> tuple[np.ndarray, np.ndarray | None]:
                batch = [np.asarray(images[index]) for index in chosen[first : first + BATCH]]
                if name:
                    place = list(CORRUPTIONS).index(name)
                    batch = [
                        corrupt(image, name, severity, (seed, place, severity, first + offset))
                        for offset, image in enumerate(batch)
                    ]
                return classify(np.stack(batch))

            parts = list(pool.map(judge, range(0, len(chosen), BATCH)))
            probabilities = np.concatenate([part[0] for part in parts])
            distance = None if parts[0][1] is None else np.concatenate([part[1] for part in parts])
            right = probabilities.argmax(axis=1) == truth
            answers[name, severity] = right, None if accepts is None else accepts(probabilities, distance)
    return _summarise(answers, names, severities)


def _sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of at most `count` images, the classes in turn, in rising order."""
    random = np.random.default_rng(seed)
    ranks = np.zeros(len(labels))
    order = random.permutation(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        ranks[own] = np.arange(len(own))
    return np.sort(order[np.argsort(ranks[order], kind="stable")][:count])


def _summarise(
    answers: dict[tuple[str, int], tuple[np.ndarray, np.ndarray | None]],
    names: Sequence[str],
    severities: Sequence[int],
) -> dict[str, Any]:
    def table(value: Callable[[np.ndarray, np.ndarray | None], Any]) -> dict[str, list[Any]]:
        return {name: [value(*answers[name, severity]) for severity in severities] for name in names}

    right, accepted = answers["", 0]
    accuracy = table(lambda right, _: _share(right))
    result: dict[str, Any] = {
        "images": len(right),
        "clean": {"accuracy": _share(right)},
        "severities": list(severities),
        "levels": {name: [CORRUPTIONS[name].levels[severity - 1] for severity in severities] for name in names},
        "units": {name: CORRUPTIONS[name].unit for name in names},
        "accuracy": accuracy,
        "mean": [
            float(np.mean([row[place]["value"] for row in accuracy.values()])) for place in range(len(severities))
        ],
    }
    if accepted is None:
        return result
    silent = table(lambda right, accepted: float((~right & accepted).mean()))
    damaged = [answers[name, severity] for name in names for severity in severities]
    wrong = sum(int((~right).sum()) for right, _ in damaged)
    slipped = sum(int((~right & accepted).sum()) for right, accepted in damaged)
    result["clean"] |= {"accepted": float(accepted.mean()), "silent_errors": float((~right & accepted).mean())}
    return result | {
        "accepted": table(lambda _, accepted: float(accepted.mean())),
        "silent_errors": silent,
        "silent_errors_mean": [
            float(np.mean([row[place] for row in silent.values()])) for place in range(len(severities))
        ],
        "errors_accepted": slipped / wrong if wrong else None,
    }


def _share(right: np.ndarray) -> dict[str, float]:
    low, high = accuracy_interval(int(right.sum()), len(right))
    return {"value": float(right.mean()), "low": low, "high": high}
