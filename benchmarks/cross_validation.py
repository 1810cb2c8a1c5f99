"""K-fold cross-validation of the head over every image of a data set: `--help` tells the rest."""

import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import numpy as np
import typer
from _common import (
    Data,
    Model,
    Seeds,
    Workspace,
    describe_machine,
    make_table,
    open_frozen,
    parse_seeds,
    report,
    start,
    use_data,
    use_model,
    workspace,
)

from metal_defects.config import AugmentationParams, Pooling, Taps, Views
from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import load_snapshot
from metal_defects.log import console
from metal_defects.metrics import classification_metrics, format_accuracy, image_losses
from metal_defects.models.augmentation import augment, make_mild
from metal_defects.models.feature_bank import BATCH, RICHEST, fastest_engine
from metal_defects.models.linear_head import FINAL_TOLERANCE
from metal_defects.models.networks import build_feature_model
from metal_defects.models.results import Hyperparameters
from metal_defects.models.trainers import FrozenTrainer, Head
from metal_defects.models.training import Examples, HeadRecipe
from metal_defects.pipeline.table import STAGES
from metal_defects.system import map_ordered
from metal_defects.trust import folds as grouped

Fold = dict[str, np.ndarray]


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    taps: Annotated[Taps, typer.Option("--taps", help="Which layers of the network the head sees.")] = "default",
    pooling: Annotated[Pooling, typer.Option("--pooling", help="What is pooled of them.")] = "moments",
    views: Annotated[Views, typer.Option("--views", help="Augmented views that it learns from.")] = "all",
    seeds: Seeds = "42",
    folds: Annotated[int, typer.Option("--folds", min=2, max=20)] = 5,
) -> None:
    """Test the frozen network with its head on every image, each judged by a head that never saw it.

    The head is solved as the product's. Classes keep their shares in every fold, copies of an image stay on one
    side, and the validation part that chooses the penalty comes out of the training folds: no test fold takes part in
    anything but its own score.

    About two minutes for 1,800 images on two cores, nearly all of it the one pass that fills the feature bank.

    Example: python benchmarks/cross_validation.py --data ~/NEU-DET --seeds 1,2,3
    """
    machine, chosen_seeds = describe_machine(), parse_seeds(seeds)
    chosen: Hyperparameters = {"taps": taps, "pooling": pooling, "views": views}
    with workspace(STAGES[:4], use_data(data), "classes=auto", *use_model(model)) as place:
        start_bank = time.perf_counter()
        trainer = open_frozen(place)
        features = gather_features(place, trainer)
        bank_seconds = time.perf_counter() - start_bank
        recipe = trainer.read_recipe(chosen)
        repetitions = [_validate(place, trainer, features, recipe, folds, seed) for seed in chosen_seeds]
    title = f"{trainer.backbone.title}, taps {taps}, {pooling}, views {views}: {folds}-fold cross-validation"
    table = make_table(title, "seed", "errors", "accuracy (95 %)", "log loss", "seconds")
    misjudged = make_table("Misjudged", "image", "seed", "true", "predicted", "confidence")
    for row in repetitions:
        numbers = (f"{row['log_loss']:.4f}", f"{row['seconds']:.0f}")
        table.add_row(str(row["seed"]), str(len(row["errors"])), row["accuracy"], *numbers)
        for error in row["errors"]:
            told = (error["true"], error["predicted"], f"{error['confidence']:.2f}")
            misjudged.add_row(error["source"], str(row["seed"]), *told)
    notes = [f"Feature bank of {features.shape[1]} images, {features.shape[0]} views: {bank_seconds:.0f} s, once."]
    result = {
        "model": trainer.backbone.name,
        "folds": folds,
        "hyperparameters": trainer.defaults() | chosen,
        "engine": trainer.method.engine,
        "bank_seconds": round(bank_seconds, 1),
        "repetitions": repetitions,
    }
    report("cross_validation", [table, misjudged], notes, machine, result)


def gather_features(place: Workspace, trainer: FrozenTrainer) -> np.ndarray:
    """Features of all images in all views, float32 (1 + views, images, columns), in the order of `SPLITS`.

    The product's bank holds augmented views of the training images alone; here every image is trained on in some
    fold, so those of the others are added.
    """
    bank, training = trainer.bank.features, place.training
    clean = np.concatenate([bank[split][0] for split in SPLITS])
    passes = [clean]
    if trainer.views:
        model = build_feature_model(trainer.backbone, trainer.network, trainer.backbone.taps, RICHEST)
        _, run = fastest_engine(model, place.scratch)
        snapshots = [load_snapshot(place.snapshots, split) for split in SPLITS[1:]]
        images = [image for snapshot in snapshots for image, _ in snapshot.as_numpy_iterator()]
        offset = bank["train"].shape[1]
        damage, firsts = training.training.augmentation, range(0, len(images), BATCH)
        for view, kind in enumerate(trainer.views, 1):
            change = damage if kind == "damage" else make_mild(damage)

            def see(first: int, view: int = view, change: AugmentationParams = change) -> np.ndarray:
                chosen = enumerate(images[first : first + BATCH], offset + first)
                return run(np.stack([augment(one, change, (training.seed, view, key)) for key, one in chosen]))

            passes.append(np.concatenate([bank["train"][view], *map_ordered(see, firsts)]))
    return np.stack(passes)


def make_folds(labels: np.ndarray, groups: np.ndarray, count: int, valid_share: float, seed: int) -> Iterator[Fold]:
    """Positions of the train, valid and test images of every fold.

    Args:
        labels: class indices, (images,).
        groups: images with the same value are copies of one another, (images,).
        count: number of folds.
        valid_share: of the images outside the test fold, in (0, 0.5].
        seed: of both shuffles.
    """
    for rest, test in grouped.make_folds(labels, groups, count, seed):
        train, valid = grouped.hold_out(labels[rest], groups[rest], valid_share, seed)
        yield {"train": rest[train], "valid": rest[valid], "test": test}


def choose_head(heads: Iterable[Head], valid: Examples) -> Head:
    """The head of the lowest log loss on clean images."""
    from scipy.special import softmax

    def measure(head: Head) -> float:
        return float(image_losses(valid.labels, softmax(head.logits(valid.clean), axis=1)).mean())

    return min(heads, key=measure)


def _validate(
    place: Workspace, trainer: FrozenTrainer, features: np.ndarray, recipe: HeadRecipe, folds: int, seed: int
) -> dict[str, Any]:
    """Cross-validation with one shuffle: the metrics over all images, and every error by name."""
    from scipy.special import softmax

    start_heads = time.perf_counter()
    params, known, classes = place.settings.params, place.known, place.classes
    labels = known.labels
    probabilities = np.zeros((len(labels), len(classes)), np.float32)
    valid_share = params.data_ingestion.valid_share_of_train
    seen = features[:, :, trainer.bank.columns(recipe.taps, recipe.pooling)]
    for number, fold in enumerate(make_folds(labels, known.groups, folds, valid_share, seed), 1):
        train, valid, test = (Examples(seen[:, rows], labels[rows]) for rows in (fold[name] for name in SPLITS))
        head = choose_head(trainer.fit_heads(recipe, train, place.make_callbacks, "Head"), valid)
        # The path is solved roughly; what it chose, as exactly as the product solves it.
        exact = recipe.model_copy(update={"l2": head.l2})
        head = next(trainer.fit_heads(exact, train, place.make_callbacks, "Head", tolerance=FINAL_TOLERANCE))
        probabilities[fold["test"]] = softmax(head.logits(test.clean), axis=1)
        told = f"seed {seed}, fold {number} of {folds}: penalty {head.l2:g}"
        console.print(told, style="dim", highlight=False)
    metrics = classification_metrics(labels, probabilities, classes)
    errors = [
        {
            "source": known.rows[index].path,
            "true": classes[labels[index]],
            "predicted": classes[int(probabilities[index].argmax())],
            "confidence": round(float(probabilities[index].max()), 4),
        }
        for index in metrics.misjudged
    ]
    seconds = round(time.perf_counter() - start_heads, 1)
    return {
        "seed": seed,
        "seconds": seconds,
        "errors": errors,
        "accuracy": format_accuracy(metrics),
        "log_loss": metrics.log_loss,
        "metrics": metrics.model_dump(mode="json"),
    }


if __name__ == "__main__":
    start(main)
