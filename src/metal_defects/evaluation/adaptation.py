"""What a few labelled images from another mill buy: a new head on the features of the own run's network."""

import hashlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from metal_defects.config import Settings
from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.data.layouts import ImageSet
from metal_defects.errors import UserError
from metal_defects.evaluation.few_shot import VIEWS, crop_view, fit_few_shot_head
from metal_defects.files import read_json
from metal_defects.log import logger, track
from metal_defects.metrics import accuracy_interval
from metal_defects.models.feature_bank import BATCH, Engine, fastest_engine
from metal_defects.models.networks import build_feature_model, tap_slices
from metal_defects.models.trainers import FrozenTrainer, make_trainer
from metal_defects.pipeline.runner import StageContext

DRAWS = 10


def adapt_to(settings: Settings, found: ImageSet, per_class: int) -> dict[str, Any]:
    """Train a few-shot head on `per_class` images of every class there and judge the others, DRAWS times.

    The head learns the classes of that folder, its unknown ones included: what they are called here does not matter.

    Args:
        settings: its artifacts folder holds the run whose network is used.
        found: the folder.
        per_class: labelled images of each class.

    Returns:
        `images_per_class`, `draws`, `classes` (mean accuracy of each), `lowest` and `highest` draw, and `accuracy`
        {"value", "low", "high", "n"} over all draws; the interval is that of one draw.

    Raises:
        UserError: there is no run, the tuned model has no frozen network, or a class has too few images.
    """
    trainer = _open_run(settings)
    images, labels = _read_images(settings, found)
    counts = np.bincount(labels, minlength=len(found.classes))
    if counts.min() <= per_class:
        smallest = found.classes[int(counts.argmin())]
        raise UserError(f"--adapt {per_class} leaves no image of '{smallest}' to judge: it has {counts.min()}.")
    taps = trainer.backbone.default_taps
    model = build_feature_model(trainer.backbone, trainer.network, taps)
    scratch = settings.config.paths.artifacts / "evaluations"
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
    low, high = accuracy_interval(round(mean * judged), judged)
    return {
        "images_per_class": per_class,
        "draws": DRAWS,
        "classes": dict(zip(found.classes, of_class.mean(axis=0).tolist(), strict=True)),
        "accuracy": {"value": mean, "low": low, "high": high, "n": judged},
        "lowest": min(scores),
        "highest": max(scores),
    }


def _open_run(settings: Settings) -> FrozenTrainer:
    artifacts = settings.config.paths.artifacts
    metrics, models = artifacts / "07_hyperparameter_tuning" / "metrics.json", artifacts / "04_model_builder"
    if not metrics.exists():
        raise UserError(
            f"--adapt needs a run of your own; the shipped bundle is not enough: `python main.py`. Got {artifacts}."
        )
    name = read_json(metrics)["name"]
    entry = next(entry for entry in read_json(models / "models.json")["models"] if entry["name"] == name)
    scratch = artifacts / "evaluations"
    trainer = make_trainer(StageContext(settings, scratch, artifacts, scratch), entry)
    if not isinstance(trainer, FrozenTrainer):
        raise UserError(f"--adapt needs a pretrained network, such as efficientnet_lite0. Got {entry['title']}.")
    return trainer


def _read_images(settings: Settings, found: ImageSet) -> tuple[list[np.ndarray], np.ndarray]:
    """Images, uint8 (side, side, 3), and class indices; equal files count once."""
    options = settings.params.data_preprocessing
    prepare = Preprocessor(options.image_size, options.resize, settings.data_schema.image)
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
