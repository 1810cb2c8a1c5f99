"""Few-shot adaptation: what a few labelled images from another mill buy, with a new head on the run's own network."""

import hashlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.data.layouts import ImageSet
from metal_defects.errors import UserError
from metal_defects.evaluation.few_shot import VIEWS, crop_view, fit_few_shot_head
from metal_defects.log import logger, track
from metal_defects.metrics import Score, share
from metal_defects.models.feature_bank import BATCH, Engine, fastest_engine
from metal_defects.models.networks import build_feature_model, tap_slices
from metal_defects.models.results import ModelEntry
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.models.training import Training
from metal_defects.records import Record

DRAWS = 10


class Adapted(Record):
    """What labelled images from there buy.

    Attributes:
        images_per_class: labelled.
        classes: mean accuracy of each.
        accuracy: mean over the draws; the interval is that of one draw.
        lowest, highest: accuracy of a draw.
    """

    images_per_class: int
    draws: int
    classes: dict[str, float]
    accuracy: Score
    lowest: float
    highest: float


def adapt_to(
    found: ImageSet, per_class: int, entry: ModelEntry, training: Training, prepare: Preprocessor, scratch: Path
) -> Adapted:
    """Train a few-shot head on `per_class` images of every class there and judge the others, DRAWS times.

    The head learns the classes of that folder, its unknown ones included: what they are called here does not matter.

    Args:
        found: the folder.
        per_class: labelled images of each class.
        entry: the base model whose network is used.
        training: what the fits of its run had in common.
        prepare: from a file's content to what the network sees.
        scratch: folder for what may be lost.

    Raises:
        UserError: the model has no frozen network, or a class has too few images.
    """
    trainer = make_trainer(entry, training)
    if not isinstance(trainer, FrozenTrainer):
        raise UserError(f"--adapt needs a pretrained network, such as efficientnet_lite0. Got {entry.title}.")
    images, labels = _read_images(found, prepare)
    counts = np.bincount(labels, minlength=len(found.classes))
    if counts.min() <= per_class:
        smallest = found.classes[int(counts.argmin())]
        raise UserError(f"--adapt {per_class} leaves no image of '{smallest}' to judge: it has {counts.min()}.")
    taps = trainer.backbone.default_taps
    model = build_feature_model(trainer.backbone, trainer.network, taps)
    scratch.mkdir(parents=True, exist_ok=True)
    _, run = fastest_engine(model, scratch)
    fit = fit_few_shot_head(list(tap_slices(model, trainer.backbone, taps).values()))
    clean = _extract(run, track(images, "Features", total=len(images)))
    scores, of_class = [], np.zeros((DRAWS, len(counts)))
    for draw in track(range(DRAWS), "Adapting", total=DRAWS):
        order = np.random.default_rng(draw).permutation(len(labels))
        chosen = np.concatenate([order[labels[order] == label][:per_class] for label in range(len(counts))])
        rest = np.setdiff1d(order, chosen)
        views = [clean[chosen]]
        views += [_extract(run, [crop_view(images[i], (i, view)) for i in chosen]) for view in range(1, 1 + VIEWS)]
        predict = fit(np.stack(views), labels[chosen], chosen, draw)
        right = predict(clean[rest]).argmax(axis=1) == labels[rest]
        scores.append(float(right.mean()))
        of_class[draw] = [right[labels[rest] == label].mean() for label in range(len(counts))]
    mean, judged = float(np.mean(scores)), len(labels) - per_class * len(counts)
    return Adapted(
        images_per_class=per_class,
        draws=DRAWS,
        classes=dict(zip(found.classes, of_class.mean(axis=0).tolist(), strict=True)),
        accuracy=share(round(mean * judged), judged).model_copy(update={"value": mean}),
        lowest=min(scores),
        highest=max(scores),
    )


def _read_images(found: ImageSet, prepare: Preprocessor) -> tuple[list[np.ndarray], np.ndarray]:
    """Images, uint8 (side, side, 3), and class indices; equal files count once."""
    places = {name: index for index, name in enumerate(found.classes)}
    images, labels, seen = [], [], set()
    for file in track(found.files, "Reading", total=len(found.files)):
        content = (found.root / file.path).read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            images.append(prepare(content))
            labels.append(places[file.label])
        except ImageError as error:
            logger.warning("   %s: %s", file.path, error)
    return images, np.array(labels, int)


def _extract(run: Engine, images: Iterable[np.ndarray]) -> np.ndarray:
    """Features, float32 (images, columns)."""
    remaining, parts = iter(images), []
    while batch := list(islice(remaining, BATCH)):
        parts.append(run(np.stack(batch)))
    return np.concatenate(parts)
