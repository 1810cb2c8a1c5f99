"""Reads the manifest of stage 01."""

import csv
import json
from pathlib import Path

import numpy as np


def read_manifest(path: Path) -> dict[str, dict[str, str]]:
    """Rows of manifest.csv by the path of the image, in their order."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


def read_boxes(row: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Boxes of an image: left, top, right, bottom as shares of its sides, (n, 4), and the class of each."""
    found = json.loads(row["boxes"])
    sides = np.array([row["width"], row["height"]] * 2, float)
    return np.array([box[:4] for box in found], float).reshape(-1, 4) / sides, [box[4] for box in found]
