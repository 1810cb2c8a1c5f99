"""How images become squares, chosen by measuring on the training images: whether they keep their shape, and the side.

Candidates are tried only where they can matter, on frozen features, by a convex head that is judged out of fold. The
simplest and cheapest candidate whose log loss is within one standard error of the lowest is taken (Breiman et al.,
Classification and Regression Trees, 1984; here the error of the paired difference).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from metal_defects.config import DataPreprocessingParams, FitMode
from metal_defects.data.geometry import Candidate, CandidateScore, Geometry
from metal_defects.data.manifest import ManifestRow
from metal_defects.evaluation.cross_validation import out_of_fold
from metal_defects.evaluation.heads import fit_convex_head
from metal_defects.evaluation.significance import standard_error
from metal_defects.log import track
from metal_defects.metrics import image_losses
from metal_defects.models.feature_bank import BATCH, Engine, fastest_engine
from metal_defects.models.networks import build_backbone, build_feature_model
from metal_defects.models.specs import REFERENCE
from metal_defects.models.weights import find_weights, locate_weights
from metal_defects.system import map_ordered

USUAL_SIDE, LARGER_SIDE = 224, 320
# A larger square shows more only where the images have more to show.
WORTH_SHOWING = 0.9
FAR_FROM_SQUARE, FAR_SHARE = 1.15, 0.05
MOST_IMAGES, SURE_PER_CLASS, FOLDS = 400, 8, 5
PENALTY = 0.03  # l2 of the convex head: features are many, images few


class UnmeasurableError(Exception):
    """The candidates cannot be compared; says why, as half a sentence."""


@dataclass(frozen=True)
class Answers:
    """Out-of-fold answers to the same images under every candidate.

    Attributes:
        labels: true classes, int (images,).
        groups: images of the same value are copies of one another, (images,).
        probabilities: float (candidates, images, classes).
        backbone: whose features were measured.
    """

    labels: np.ndarray
    groups: np.ndarray
    probabilities: np.ndarray
    backbone: str


Measure = Callable[[Sequence[Candidate]], Answers]
Read = Callable[[Candidate, ManifestRow], np.ndarray]


def choose_geometry(sizes: np.ndarray, params: DataPreprocessingParams, measure: Measure) -> Geometry:
    """The way to make squares of these images.

    Args:
        sizes: width and height of every training image in pixels, (images, 2).
        params: what is set, and what is left to choose.
        measure: compares candidates; called only where there are several.
    """
    candidates = list_candidates(sizes, params)
    if len(candidates) == 1:
        return Geometry(**dict(candidates[0]), reason=_explain_no_choice(sizes, params))
    try:
        return compare(candidates, measure(candidates))
    except UnmeasurableError as error:
        titles = ", ".join(one.title for one in candidates)
        reason = f"{candidates[0].title} without a measurement, because {error}; there were {titles} to choose from."
        return Geometry(**dict(candidates[0]), reason=_capitalise(reason))


def list_candidates(sizes: np.ndarray, params: DataPreprocessingParams) -> list[Candidate]:
    """What is worth trying, the cheapest first, and of the same cost the simplest."""
    far, median = _describe_sizes(sizes)
    fits: list[FitMode] = ["stretch", "letterbox"] if far > FAR_SHARE else ["stretch"]
    sides = [USUAL_SIDE, LARGER_SIDE] if median >= WORTH_SHOWING * LARGER_SIDE else [USUAL_SIDE]
    if params.fit != "auto":
        fits = [params.fit]
    if params.image_size != "auto":
        sides = [params.image_size]
    return [Candidate(fit=fit, image_size=side) for side in sides for fit in fits]


def compare(candidates: Sequence[Candidate], answers: Answers) -> Geometry:
    """The choice by the rule of one standard error, with its figures.

    Args:
        candidates: the one to prefer first.
        answers: under each of them.
    """
    losses = np.stack([image_losses(answers.labels, shares) for shares in answers.probabilities])
    best = int(losses.mean(axis=1).argmin())
    scores = [
        CandidateScore(
            **dict(candidate),
            log_loss=round(float(own.mean()), 4),
            difference=round(float((own - losses[best]).mean()), 4),
            standard_error=round(standard_error(own - losses[best], answers.groups), 4),
            accuracy=round(float((shares.argmax(axis=1) == answers.labels).mean()), 4),
            relative_cost=round((candidate.image_size / USUAL_SIDE) ** 2, 2),
        )
        for candidate, own, shares in zip(candidates, losses, answers.probabilities, strict=True)
    ]
    chosen = next(score for score in scores if score.difference <= score.standard_error)
    return Geometry(
        fit=chosen.fit,
        image_size=chosen.image_size,
        reason=_explain_choice(chosen, scores[best], scores[0]),
        images=len(answers.labels),
        backbone=answers.backbone,
        candidates=tuple(scores),
    )


def measure_candidates(
    candidates: Sequence[Candidate], rows: Sequence[ManifestRow], read: Read, weights: Path, scratch: Path, seed: int
) -> Answers:
    """Answers of a convex head on the moments of the reference backbone, pretrained.

    Args:
        candidates: neighbours have the same side.
        rows: of the training images; a stratified sample of them is measured.
        read: the square of an image, uint8 (side, side, 3).
        weights: folder of weights files; nothing is downloaded.
        scratch: folder for what may be lost.
        seed: of sample and folds.

    Raises:
        UnmeasurableError: there are no pretrained weights, or too few images of different groups.
    """
    if not locate_weights(REFERENCE.weights, weights):
        raise UnmeasurableError(f"the pretrained weights of {REFERENCE.title} are not at hand")
    file = find_weights(REFERENCE.weights, weights, timeout_seconds=0)
    sample = draw_sample(rows, seed)
    names, labels = np.unique([row.label for row in sample], return_inverse=True)
    if len(names) < 2:
        raise UnmeasurableError("fewer than two classes have two different training images")
    groups = np.array([row.group for row in sample])
    shares = []
    for side, same in groupby(candidates, lambda one: one.image_size):
        network = build_backbone(REFERENCE, side, seed, file)
        _, run = fastest_engine(build_feature_model(REFERENCE, network, REFERENCE.default_taps), scratch)
        for candidate in same:
            features = _extract(run, sample, candidate, read)
            judged = out_of_fold(
                features[None], labels, groups, fit_convex_head(PENALTY), FOLDS, 1, seed, f"Judging {candidate.title}"
            )
            shares.append(judged.mean_probabilities)
    return Answers(labels, groups, np.stack(shares), REFERENCE.title)


def draw_sample(rows: Sequence[ManifestRow], seed: int) -> list[ManifestRow]:
    """At most `MOST_IMAGES` rows: `SURE_PER_CLASS` of every class where possible, then all classes by their shares.

    Classes of which images of one group alone were drawn are left out: there is nothing to judge them by.
    """
    _, codes, sizes = np.unique([row.label for row in rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    rank = np.empty(len(rows), int)
    for code, size in enumerate(sizes):
        rank[order[codes[order] == code]] = np.arange(size)
    turn = np.where(rank < SURE_PER_CLASS, rank - SURE_PER_CLASS, (rank + 0.5) / sizes[codes])
    sample = [rows[index] for index in sorted(np.argsort(turn, kind="stable")[:MOST_IMAGES])]
    groups: dict[str, set[str]] = {}
    for row in sample:
        groups.setdefault(row.label, set()).add(row.group)
    return [row for row in sample if len(groups[row.label]) > 1]


def _extract(run: Engine, sample: Sequence[ManifestRow], candidate: Candidate, read: Read) -> np.ndarray:
    """Features of the sample, float32 (images, columns)."""
    batches = [sample[first : first + BATCH] for first in range(0, len(sample), BATCH)]
    parts = map_ordered(lambda rows: run(np.stack([read(candidate, row) for row in rows])), batches)
    return np.concatenate(list(track(parts, f"Trying {candidate.title}", total=len(batches))))


def _describe_sizes(sizes: np.ndarray) -> tuple[float, float]:
    """Share of images that are far from square, and the median of the longer sides in pixels."""
    longer, shorter = sizes.max(axis=1), sizes.min(axis=1)
    return float((longer > FAR_FROM_SQUARE * shorter).mean()), float(np.median(longer))


def _explain_no_choice(sizes: np.ndarray, params: DataPreprocessingParams) -> str:
    far, median = _describe_sizes(sizes)
    shape, side = f"fit is set to {params.fit}", f"image_size is set to {params.image_size} px"
    if params.fit == "auto":
        shape = f"{100 * far:.0f} % of the training images are far from square (beyond {FAR_FROM_SQUARE:g} : 1)"
    if params.image_size == "auto":
        side = f"the median of their longer sides, {median:.0f} px, asks for no more than {USUAL_SIDE} px"
    return _capitalise(f"{shape}, and {side}: there was nothing to choose.")


def _explain_choice(chosen: CandidateScore, best: CandidateScore, first: CandidateScore) -> str:
    if chosen != best:
        gap = f"{chosen.difference:.4f} ± {chosen.standard_error:.4f} nats"
        return _capitalise(
            f"{best.title} has the lowest log loss, {best.log_loss:.4f} nats, but {chosen.title} comes within one "
            f"standard error of it ({gap}) and is simpler or cheaper."
        )
    if chosen == first:
        return _capitalise(f"{chosen.title}, the simplest and cheapest, has the lowest log loss too.")
    return _capitalise(
        f"{chosen.title} has the lowest log loss, {chosen.log_loss:.4f} nats; {first.title} has "
        f"{first.difference:.4f} ± {first.standard_error:.4f} nats more."
    )


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
