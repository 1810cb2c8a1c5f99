"""What is written of one model on one split: the same figures in JSON and CSV, and a picture of every error."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metal_defects.components.split_results import LabelledImages, write_split_results
from metal_defects.data.manifest import ImageRow
from metal_defects.metrics import SplitMetrics
from metal_defects.records import read_record

CLASSES = ("Left", "Right")


@pytest.fixture
def images(tmp_path: Path) -> LabelledImages:
    rows = []
    for index, (split, label) in enumerate(
        [("train", "Left"), ("valid", "Left"), ("valid", "Right"), ("test", "Left")]
    ):
        path = f"{index}.png"
        Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)).save(tmp_path / path)
        rows.append(
            ImageRow(path=path, label=label, split=split, sha256="", source=f"steel/{index}.bmp", group=str(index))
        )
    return LabelledImages(rows, CLASSES, tmp_path)


def test_labels_are_those_of_the_rows_of_a_split(images: LabelledImages) -> None:
    assert images.labels("valid").tolist() == [0, 1]
    assert [row.source for row in images.select("test")] == ["steel/3.bmp"]


def test_every_file_tells_the_same(images: LabelledImages, tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [0.75, 0.25]], np.float32)
    out = tmp_path / "out"
    metrics = write_split_results(out, "valid", probabilities, images, "Toy")
    assert (metrics.n, metrics.correct) == (2, 1)
    (error,) = metrics.errors
    assert (error.source, error.true, error.predicted, error.confidence) == ("steel/2.bmp", "Right", "Left", 0.75)
    assert read_record(out / "metrics_valid.json", SplitMetrics) == metrics
    predictions = list(csv.DictReader((out / "predictions_valid.csv").read_text().splitlines()))
    assert [row["predicted"] for row in predictions] == ["Left", "Left"]
    assert [float(row["Right"]) for row in predictions] == pytest.approx([0.1, 0.25])
    table = {
        (row["class"], row["metric"]): float(row["value"])
        for row in csv.DictReader((out / "metrics_valid.csv").read_text().splitlines())
    }
    assert table["all", "accuracy"] == 0.5
    assert table["Left", "recall"] == 1.0
    assert table["Right", "recall"] == 0.0
    for name in ("predictions_valid.csv", "metrics_valid.csv"):
        assert b"\r" not in (out / name).read_bytes()
    pictures = {"confusion_matrix_valid.png", "per_class_valid.png", "misjudged_valid.png"}
    assert pictures <= {path.name for path in out.iterdir()}
