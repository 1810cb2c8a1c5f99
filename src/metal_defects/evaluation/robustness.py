"""Corruption robustness: accuracy on damaged images, and whether the verdicts notice."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np

from metal_defects.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from metal_defects.log import track
from metal_defects.metrics import Score, share
from metal_defects.records import Record
from metal_defects.system import map_ordered

Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
Accepts = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
Answers = tuple[np.ndarray, np.ndarray | None]
"""Whether the images of a cell are named rightly, and whether the answers are accepted, bool (images,) each."""
BATCH = 8
IMAGES_PER_CELL = 48


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
    images: np.ndarray,
    labels: np.ndarray,
    accepts: Accepts | None = None,
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    images_per_cell: int = IMAGES_PER_CELL,
    seed: int = 0,
) -> Robustness:
    """Damage a sample of held-out images in every way and severity, and classify it.

    All cells see the same images, evenly drawn from the classes; the damage depends on the seed, the cell and the
    image's place alone.

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
    """
    chosen = _sample(labels, images_per_cell, seed)
    truth = labels[chosen]
    cells = [("", 0), *((name, severity) for name in names for severity in severities)]
    places = list(CORRUPTIONS)
    jobs = [(*cell, first) for cell in cells for first in range(0, len(chosen), BATCH)]

    def judge(job: tuple[str, int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        name, severity, first = job
        batch = [images[index] for index in chosen[first : first + BATCH]]
        if name:
            seeds = [(seed, places.index(name), severity, first + offset) for offset in range(len(batch))]
            batch = [corrupt(image, name, severity, own) for image, own in zip(batch, seeds, strict=True)]
        return classify(np.stack(batch))

    parts = iter(track(map_ordered(judge, jobs), "Damaged images", total=len(jobs)))
    answers: dict[tuple[str, int], Answers] = {}
    for cell in cells:
        own = list(islice(parts, len(jobs) // len(cells)))
        probabilities = np.concatenate([part[0] for part in own])
        distances = [part[1] for part in own if part[1] is not None]
        distance = np.concatenate(distances) if distances else None
        right = probabilities.argmax(axis=1) == truth
        answers[cell] = right, None if accepts is None else accepts(probabilities, distance)
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
    answers: Mapping[tuple[str, int], Answers], names: Sequence[str], severities: Sequence[int]
) -> Robustness:
    right, accepted = answers["", 0]
    accuracy = {name: tuple(_share(answers[name, severity][0]) for severity in severities) for name in names}
    damaged = [answers[name, severity] for name in names for severity in severities]
    judged = {cell: (right, accepted) for cell, (right, accepted) in answers.items() if accepted is not None}
    passed = _table(judged, names, severities, lambda _, accepted: accepted) if judged else {}
    silent = _table(judged, names, severities, lambda right, accepted: ~right & accepted) if judged else {}
    wrong = sum(int((~right).sum()) for right, _ in damaged)
    slipped = sum(int((~right & accepted).sum()) for right, accepted in damaged if accepted is not None)
    return Robustness(
        images=len(right),
        clean=Undamaged(
            accuracy=_share(right),
            accepted=None if accepted is None else float(accepted.mean()),
            silent_errors=None if accepted is None else float((~right & accepted).mean()),
        ),
        severities=tuple(severities),
        levels={name: tuple(CORRUPTIONS[name].levels[severity - 1] for severity in severities) for name in names},
        units={name: CORRUPTIONS[name].unit for name in names},
        accuracy=accuracy,
        mean=tuple(float(np.mean([one.value for one in column])) for column in zip(*accuracy.values(), strict=True)),
        accepted=passed or None,
        silent_errors=silent or None,
        silent_errors_mean=tuple(np.mean(list(silent.values()), axis=0).tolist()) if silent else None,
        errors_accepted=slipped / wrong if wrong and accepted is not None else None,
    )


def _table(
    answers: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
    severities: Sequence[int],
    choose: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> dict[str, tuple[float, ...]]:
    """Share of the images that `choose` picks, of each kind, by severity."""
    return {name: tuple(float(choose(*answers[name, severity]).mean()) for severity in severities) for name in names}


def _share(right: np.ndarray) -> Score:
    return share(int(right.sum()), len(right))
