"""Trains on drawn images alone and tests on real ones: `--help` tells the rest."""

from typing import Annotated

import numpy as np
import typer
from _common import Data, Model, describe_machine, make_table, report, start, use_data, use_model, workspace

from metal_defects.artifacts import TUNED_CARD, TUNED_H5, TUNED_METRICS
from metal_defects.data.manifest import SPLITS
from metal_defects.data.snapshots import load_labels, load_snapshot
from metal_defects.errors import DataError
from metal_defects.metrics import classification_metrics, format_accuracy
from metal_defects.models.results import TunedCard, TunedResult
from metal_defects.models.training import predict_images
from metal_defects.pipeline.table import STAGES
from metal_defects.records import read_record

HONESTY = (
    "The drawings were made by people who had looked at NEU images, so this is no test on something unseen. "
    "It says how far such drawings carry, and nothing about another mill."
)


def main(
    data: Data,
    model: Model = "efficientnet_lite0",
    images_per_class: Annotated[
        int, typer.Option("--images-per-class", min=20, help="Drawn images of each class to train on.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 42,
) -> None:
    """Run the whole pipeline on the synthetic set, then score the tuned model on every real image.

    No real image takes part in training, tuning or any choice. The drawings were made by people who had looked at
    NEU images: expect less from drawings of a defect that nobody has seen.

    About two minutes on two cores.

    Example: python benchmarks/synthetic_to_real.py --data ~/NEU-DET
    """
    import keras

    machine = describe_machine()
    drawn = (
        "data.source=synthetic",
        f"data_ingestion.synthetic_images_per_class={images_per_class}",
        f"seed={seed}",
    )
    with workspace(STAGES, *drawn, *use_model(model)) as place:
        drawn_classes = read_record(place.path(TUNED_CARD), TunedCard).classes
        classifier = keras.models.load_model(place.path(TUNED_H5), compile=False)
        training = read_record(place.path(TUNED_METRICS), TunedResult)
    with workspace(STAGES[:3], use_data(data)) as place:
        snapshots, classes = place.snapshots, place.classes
        if classes != drawn_classes:
            raise DataError(
                f"--data must hold the classes of the synthetic set, {', '.join(drawn_classes)}. "
                f"Got {', '.join(classes)} instead."
            )
        probabilities = [predict_images(classifier, load_snapshot(snapshots, split)) for split in SPLITS]
        labels = np.concatenate([load_labels(snapshots, split) for split in SPLITS])
    real = classification_metrics(labels, np.concatenate(probabilities), classes)
    table = make_table(
        f"{training.title} trained on {len(classes) * images_per_class} drawings alone",
        "tested on",
        "accuracy (95 %)",
    )
    table.add_row("drawings held out", format_accuracy(training.test))
    table.add_row("real images, all of them", format_accuracy(real))
    confusion = make_table("Real images: true class by row, predicted by column", "", *classes, "recall % (95 %)")
    for row, counts in zip(real.per_class, real.confusion_matrix, strict=True):
        value, low, high = (100 * part for part in (row.recall.value, row.recall.low, row.recall.high))
        recall = f"{value:.1f} ({low:.1f}-{high:.1f})"
        confusion.add_row(row.name, *(str(count) if count else "·" for count in counts), recall)
    result = {
        "model": training.name,
        "hyperparameters": training.hyperparameters,
        "images_per_class": images_per_class,
        "seed": seed,
        "note": HONESTY,
        "drawn": training.test.model_dump(mode="json"),
        "real": real.model_dump(mode="json"),
    }
    report("synthetic_to_real", [table, confusion], [HONESTY], machine, result)


if __name__ == "__main__":
    start(main)
