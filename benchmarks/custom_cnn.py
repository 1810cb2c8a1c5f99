"""The custom CNN from scratch on an 80/20 split, one repetition per seed: `--help` tells the rest."""

import time
from pathlib import Path
from typing import Any

from _common import (
    SPLIT_80_20,
    Data,
    Seeds,
    describe_machine,
    make_table,
    parse_seeds,
    report,
    score_test,
    start,
    use_data,
    use_model,
    workspace,
)

from metal_defects.artifacts import MODELS
from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import load_summary
from metal_defects.log import console
from metal_defects.metrics import accuracy_interval, format_accuracy
from metal_defects.models.results import ModelList
from metal_defects.models.trainers import make_trainer
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record


def main(data: Data, seeds: Seeds = "1,2,3") -> None:
    """Train the custom CNN from random weights and test it once, for every seed.

    240 of 300 images of each class for training, a tenth of them for validation, 60 for the test: the product's own
    stages and trainer. A seed draws a new split, new weights and new augmentation. The epoch is chosen on the
    validation part; the test part is read once, at the end.

    About three minutes a seed on two cores.

    Example: python benchmarks/custom_cnn.py --data ~/NEU-DET --seeds 1,2,3,4,5
    """
    machine = describe_machine()
    rows = [_train(data, seed) for seed in parse_seeds(seeds)]
    table = make_table("custom CNN from scratch, 80/20", "seed", "images", "epochs", "test accuracy (95 %)", "seconds")
    for row in rows:
        images = " / ".join(str(row["images"][split]) for split in SPLITS)
        cells = (images, str(row["epochs"]), format_accuracy(row["test"]), f"{row['seconds']:.0f}")
        table.add_row(str(row["seed"]), *cells)
    correct, total = sum(row["test"].correct for row in rows), sum(row["test"].n for row in rows)
    low, high = accuracy_interval(correct, total)
    accuracies = [100 * row["test"].accuracy.value for row in rows]
    notes = [
        f"Mean {sum(accuracies) / len(rows):.2f} %, lowest {min(accuracies):.2f} %; {correct} of {total} in all "
        f"({100 * low:.2f} to {100 * high:.2f} %, as if the repetitions were independent).",
        "Seconds: training alone, from the snapshots to the best epoch's weights.",
    ]
    repetitions = [row | {"test": row["test"].model_dump(mode="json")} for row in rows]
    report("custom_cnn", [table], notes, machine, {"repetitions": repetitions})


def _train(data: Path, seed: int) -> dict[str, Any]:
    """One split, one training run, one test."""
    with workspace(STAGES[:4], use_data(data), *use_model("custom_cnn"), SPLIT_80_20, f"seed={seed}") as place:
        entry = read_record(place.path(MODELS), ModelList).models[0]
        trainer = make_trainer(entry, place.training)
        begin = time.perf_counter()
        fitted = trainer.fit({}, place.make_callbacks, place.scratch / "training", f"seed {seed}")
        seconds = time.perf_counter() - begin
        test = score_test(place, fitted.predict("test"))
        console.print(f"seed {seed}: test {format_accuracy(test)}, {seconds:.0f} s", style="dim", highlight=False)
        summary = load_summary(place.snapshots)
    return {
        "seed": seed,
        "images": {split: getattr(summary, split).images for split in SPLITS},
        "parameters": entry.parameters,
        "hyperparameters": trainer.defaults(),
        "epochs": len(fitted.history["loss"]),
        "seconds": round(seconds, 1),
        "test": test,
    }


if __name__ == "__main__":
    start(main)
