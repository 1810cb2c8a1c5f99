"""Stage 02: every image as a square RGB PNG, ready to train on, and plots to get to know the data."""

import csv
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.errors import DataError
from metal_defects.evaluation.exploratory_plots import ClassStatistics, describe_pixels, write_exploratory_plots
from metal_defects.files import atomic_path, read_json, write_text
from metal_defects.log import logger, track
from metal_defects.pipeline.runner import StageContext

_COLUMNS = ("path", "label", "split", "sha256", "source")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
Row = dict[str, str]


def run(ctx: StageContext) -> None:
    """Write the images, images.csv, pre_processor.joblib and plots/.

    Raises:
        DataError: a source image vanished, changed or became unreadable since ingestion.
    """
    ingested = ctx.artifacts / "01_data_ingestion"
    source = read_json(ingested / "source.json")
    with (ingested / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    params = ctx.settings.params.data_preprocessing
    preprocess = Preprocessor(params.image_size, params.resize, ctx.settings.data_schema.image)
    paths = choose_paths(rows, source["classes"], f"resized_images_{params.image_size}")
    for folder in sorted({(ctx.out / path).parent for path in paths}):
        folder.mkdir(parents=True, exist_ok=True)
    statistics = {name: ClassStatistics() for name in source["classes"]}
    written = []
    for row, path, pixels in track(
        _preprocess_all(rows, paths, Path(source["root"]), ctx.out, preprocess), "Decoding images", total=len(rows)
    ):
        digest, description = pixels
        written.append((path, row["label"], row["split"], digest, row["path"]))
        statistics[row["label"]].add(row["split"], ctx.out / path, description)
    write_text(ctx.out / "images.csv", _format_csv(written))
    _save_preprocessor(ctx.out / "pre_processor.joblib", preprocess)
    write_exploratory_plots(ctx.out / "plots", statistics)
    logger.info("   %d images of %d classes at %d px", len(rows), len(statistics), params.image_size)
