"""Accuracy under the protocols of the literature, random halves and a few labelled images: `--help` tells the rest."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import typer
from _common import (
    Data,
    Model,
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
from cross_validation import gather_features

from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import load_snapshot
from metal_defects.evaluation.few_shot import VIEWS, crop_view, fit_few_shot_head
from metal_defects.evaluation.heads import Fit, fit_convex_head
from metal_defects.log import console, track
from metal_defects.metrics import classification_metrics
from metal_defects.models.feature_bank import BATCH, RICHEST, fastest_engine
from metal_defects.models.networks import build_feature_model
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.pipeline.table import STAGES
from metal_defects.system import map_ordered

Draw = tuple[np.ndarray, np.ndarray]


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    train: Annotated[float, typer.Option("--train", min=0.05, max=0.95, help="Share of each class to train on.")] = 0.5,
    splits: Annotated[int, typer.Option("--splits", min=2, max=1000)] = 20,
    shots: Annotated[
        str, typer.Option("--shots", metavar="N,N,...", help="Labelled images per class of the few-shot runs.")
    ] = "1,5",
    draws: Annotated[int, typer.Option("--draws", min=2, max=1000, help="Of every number of shots.")] = 20,
) -> None:
    """Train the head on random splits and on a handful of images per class, and judge all other images.

    Copies of an image stay on one side. On the splits a linear head with one penalty for all sees clean images alone,
    and then those with their augmented views, which are there for damaged images; the few images are seen in eight
    crops each by a head made for them. Both are inductive: no test image takes part, not even without its label.
    Features are computed once.

    About two minutes for 1,800 images on two cores.

    Examples: python benchmarks/protocols.py --data ~/NEU-DET --train 0.5 --splits 100
    and python benchmarks/protocols.py --data ~/X-SDD --train 0.7
    """
    machine, sizes = describe_machine(), parse_seeds(shots)
    with workspace(STAGES[:4], use_data(data), "classes=auto", *use_model(model)) as place:
        trainer = open_frozen(place)
        classes, labels = place.classes, place.known.labels
        groups = np.unique(place.known.groups, return_inverse=True)[1]
        columns = trainer.bank.columns(trainer.backbone.default_taps)
        features = gather_features(place, trainer)[:, :, columns]
        halves = _draw_splits(labels, groups, train, splits)
        results = []
        for views in ("none", "mild", "damage", "all"):
            numbers = trainer.bank.view_numbers(views)
            if views == "none" or (views == "all" and len(numbers) > 2) or views in trainer.views:
                name = {"protocol": f"{train:.0%} to train, views: {views}"}
                results.append(name | judge(features[numbers], labels, groups, classes, fit_convex_head(), halves))
        plans = {size: [draw_shots(labels, groups, size, seed) for seed in range(draws)] for size in sizes}
        needed = np.unique(np.concatenate([few for plan in plans.values() for few, _ in plan]))
        crops = np.zeros((1 + VIEWS, *features.shape[1:]), np.float32)
        crops[0] = features[0]
        crops[1:, needed] = _see_crops(place, trainer, needed)[:, :, columns]
        few_shot_head = fit_few_shot_head(list_taps(trainer))
        for size, plan in plans.items():
            name = {"protocol": f"{size} per class"}
            results.append(name | judge(crops, labels, groups, classes, few_shot_head, plan))
    table = make_table(
        f"{trainer.backbone.title}: {len(labels)} images", "protocol", "draws", "trained on", "accuracy, mean ± SD",
        "95 % of the mean", "lowest", "macro-F1", "seconds",
    )  # fmt: skip
    for row in results:
        mean = row["accuracy"]
        table.add_row(
            row["protocol"], str(row["draws"]), str(row["images"]), f"{mean['mean']:.2f} ± {mean['deviation']:.2f}",
            f"{mean['low']:.2f}–{mean['high']:.2f}", f"{mean['lowest']:.2f}", f"{row['macro_f1']['mean']:.2f}",
            f"{row['seconds']:.0f}",
        )  # fmt: skip
    notes = ["In percent. Intervals allow for the overlap of the draws (Nadeau & Bengio, 2003)."]
    report("protocols", [table], notes, machine, {"data": data.name, "model": model, "results": results})


def judge(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], fit: Fit, plan: list[Draw]
) -> dict[str, Any]:
    """Train and test on every draw of `plan`: accuracy and macro-F1 in percent, and how they vary."""
    from scipy.special import softmax

    begin = time.perf_counter()
    scores: dict[str, list[float]] = {"accuracy": [], "macro_f1": []}
    for few, test in track(plan, "Draws", total=len(plan)):
        predict: Callable[[np.ndarray], np.ndarray] = fit(features[:, few], labels[few], groups[few], 0)
        metrics = classification_metrics(labels[test], softmax(predict(features[0, test]), axis=1), classes)
        for name, values in scores.items():
            values.append(100 * getattr(metrics, name).value)
    ratio = len(plan[0][1]) / len(plan[0][0])
    console.print(f"{len(plan)} draws done", style="dim", highlight=False)
    described = {name: describe(values, ratio) for name, values in scores.items()}
    seconds = round(time.perf_counter() - begin, 1)
    return {"draws": len(plan), "images": len(plan[0][0]), "seconds": seconds, **described}


def describe(scores: list[float], ratio: float) -> dict[str, float]:
    """Mean, spread and extremes of scores in percent, and the 95 % interval of the mean.

    Args:
        scores: of the draws.
        ratio: test images per training image; at most 1 of it counts, for draws of a few images hardly overlap.
    """
    from scipy.stats import t

    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    half = float(t.ppf(0.975, len(scores) - 1)) * deviation * np.sqrt(1 / len(scores) + (ratio if ratio <= 1 else 0))
    return {
        "mean": mean,
        "deviation": deviation,
        "low": max(0.0, mean - half),
        "high": min(100.0, mean + half),
        "lowest": min(scores),
        "highest": max(scores),
    }


def split_groups(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> Draw:
    """Positions to train on, `share` of each class, and of the others; images of a group stay together."""
    random, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        wanted = round(share * int((labels == label).sum()))
        for group in random.permutation(np.unique(groups[labels == label])):
            members = groups == group
            if (chosen & (labels == label)).sum() + members.sum() <= wanted:
                chosen |= members
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def draw_shots(labels: np.ndarray, groups: np.ndarray, size: int, seed: int) -> Draw:
    """Positions of `size` images of each class, and of all images that are not copies of them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    few = np.concatenate([order[labels[order] == label][:size] for label in np.unique(labels)])
    return few, np.flatnonzero(~np.isin(groups, groups[few]))


def list_taps(trainer: FrozenTrainer) -> list[slice]:
    """Columns of each default tap, in a matrix of those taps alone."""
    counts = [len(trainer.bank.columns((tap,))) for tap in trainer.backbone.default_taps]
    ends = np.cumsum([0, *counts]).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]


def _draw_splits(labels: np.ndarray, groups: np.ndarray, share: float, count: int) -> list[Draw]:
    return [split_groups(labels, groups, share, seed) for seed in range(count)]


def _see_crops(place: Workspace, trainer: FrozenTrainer, needed: np.ndarray) -> np.ndarray:
    """Features of crops of the images at `needed`, float32 (VIEWS, needed, all columns)."""
    model = build_feature_model(trainer.backbone, trainer.network, trainer.backbone.taps, RICHEST)
    _, run = fastest_engine(model, place.scratch)
    snapshots = [load_snapshot(place.snapshots, split) for split in SPLITS]
    wanted = set(needed.tolist())
    everything = (image for snapshot in snapshots for image, _ in snapshot.as_numpy_iterator())
    images = {index: image for index, image in enumerate(everything) if index in wanted}
    jobs = [(view, int(index)) for view in range(VIEWS) for index in needed]

    def see(first: int) -> np.ndarray:
        return run(np.stack([crop_view(images[index], (index, view)) for view, index in jobs[first : first + BATCH]]))

    firsts = range(0, len(jobs), BATCH)
    parts = list(track(map_ordered(see, firsts), "Crops", total=len(firsts)))
    return np.concatenate(parts).reshape(VIEWS, len(needed), -1)


if __name__ == "__main__":
    start(main)
