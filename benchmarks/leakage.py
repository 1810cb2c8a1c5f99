"""What random splits hide: `--help` tells the rest."""

import time
from pathlib import Path
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
from cross_validation import gather_features

from metal_defects.evaluation.cross_validation import out_of_fold
from metal_defects.evaluation.heads import fit_convex_head
from metal_defects.models.trainers import FrozenTrainer
from metal_defects.pipeline.table import STAGES
from metal_defects.records import write_table

Columns = np.ndarray


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    seeds: Seeds = "0,1,2",
    folds: Annotated[int, typer.Option("--folds", min=2, max=20)] = 5,
    write_plates: Annotated[
        Path | None, typer.Option("--write-plates", metavar="FILE", help="CSV of every image and its piece.")
    ] = None,
) -> None:
    """Cross-validate heads twice: images divided at random, and pieces of surface kept whole.

    A piece is all images that overlap one another, as stage 01 finds them. Heads are the convex ones (logistic
    regression) on features of the frozen network: its default taps, with and without augmented views; the means of
    its last tap, as in common practice; its second tap alone.

    About ten minutes for 1,800 images on two cores.

    Example: python benchmarks/leakage.py --data ~/NEU-DET --write-plates docs/neu_plates.csv
    """
    machine, chosen_seeds = describe_machine(), parse_seeds(seeds)
    with workspace(STAGES[:4], use_data(data), *use_model(model)) as place:
        if write_plates:
            _write_plates(place, write_plates)
        trainer = open_frozen(place)
        features = gather_features(place, trainer)
        rows = [
            _compare(name, features[trainer.bank.view_numbers(views)][:, :, columns], place, folds, chosen_seeds)
            for name, columns, views in _list_heads(trainer)
        ]
        pieces, count = len(np.unique(place.known.groups)), len(place.known.labels)
    listed = ", ".join(map(str, chosen_seeds))
    table = make_table(
        f"{trainer.backbone.title}: {folds}-fold errors of {count} images, seeds {listed}",
        "head",
        "random",
        "by pieces",
        "seconds",
    )
    for row in rows:
        told = (", ".join(map(str, row[kind])) for kind in ("random", "pieces"))
        table.add_row(row["head"], *told, f"{row['seconds']:.0f}")
    notes = [f"{count} images show {pieces} pieces of surface. 'Random' keeps nothing together, not even copies."]
    result = {"model": trainer.backbone.name, "folds": folds, "seeds": chosen_seeds, "pieces": pieces, "heads": rows}
    report("leakage", [table], notes, machine, result)


def _list_heads(trainer: FrozenTrainer) -> list[tuple[str, Columns, str]]:
    """Name, columns of the feature bank, and choice of augmented views of every head."""
    bank, taps = trainer.bank, trainer.backbone.default_taps
    views = len(trainer.views)
    everything, last = bank.columns(taps), bank.columns(trainer.backbone.taps[-1:])
    return [
        (f"{len(taps)} taps", everything, "none"),
        (f"{len(taps)} taps, {views} views", everything, "all"),
        ("last tap, means alone", last[: len(last) // 2], "none"),
        (f"{taps[1]} alone, {views} views", bank.columns(taps[1:2]), "all"),
    ]


def _compare(name: str, features: np.ndarray, place: Workspace, folds: int, seeds: list[int]) -> dict[str, Any]:
    """Errors of one head in every shuffle, at random and by pieces."""
    labels, begin = place.known.labels, time.perf_counter()
    found: dict[str, Any] = {"head": name}
    for kind, groups in (("random", np.arange(len(labels))), ("pieces", place.known.groups)):
        answers = [
            out_of_fold(features, labels, groups, fit_convex_head(), folds, 1, seed, f"{name}, {kind}, seed {seed}")
            for seed in seeds
        ]
        found[kind] = [int((answer.logits[0].argmax(axis=1) != labels).sum()) for answer in answers]
    return found | {"seconds": round(time.perf_counter() - begin, 1)}


def _write_plates(place: Workspace, target: Path) -> None:
    """The piece of every image, numbered within its class by its first image."""
    known = place.known
    rows = sorted(known.rows, key=lambda row: (row.label, row.group != row.path, row.path))
    numbers: dict[str, str] = {}
    for label in place.classes:
        groups = sorted({row.group for row in rows if row.label == label} - numbers.keys())
        numbers |= {group: f"{label.lower()}_{number:03}" for number, group in enumerate(groups, 1)}
    cells = sorted((Path(row.path).stem, numbers[row.group]) for row in known.rows)
    write_table(target, ("image", "plate"), cells)


if __name__ == "__main__":
    start(main)
