"""Stage 02: every image as a square RGB PNG, ready to train on, and plots to get to know the data."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metal_defects.artifacts import DATA_PLOTS, GEOMETRY, IMAGES, MANIFEST, PREPROCESSOR, SOURCE
from metal_defects.data.geometry import Candidate, Geometry
from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.data.manifest import ImageRow, ManifestRow, SourceCard
from metal_defects.errors import DataError
from metal_defects.evaluation.geometry_choice import Answers, choose_geometry, measure_candidates
from metal_defects.files import atomic_path
from metal_defects.log import logger, track
from metal_defects.pipeline.context import StageContext
from metal_defects.pipeline.table import MEASURE
from metal_defects.plots.data import ClassStatistics, Description, describe, write_exploratory_plots
from metal_defects.records import write_record, write_rows
from metal_defects.system import map_ordered

_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def run(ctx: StageContext) -> None:
    """Write geometry.json, resized_images_<size>/, images.csv, pre_processor.joblib and plots/.

    Raises:
        DataError: a source image vanished, changed or became unreadable since ingestion.
    """
    source, rows = ctx.read(SOURCE, SourceCard), ctx.read_rows(MANIFEST, ManifestRow)
    geometry = _choose_geometry(ctx, Path(source.root), [row for row in rows if row.split == "train"])
    preprocess = _make_preprocessor(ctx, geometry)
    targets = choose_targets(rows, source.classes, f"resized_images_{geometry.image_size}")
    for folder in sorted({(ctx.out / target).parent for target in targets}):
        folder.mkdir(parents=True, exist_ok=True)

    def process(job: tuple[ManifestRow, str]) -> tuple[str, Description]:
        row, target = job
        pixels = _read_square(Path(source.root) / row.path, row.sha256, preprocess)
        Image.fromarray(pixels).save(ctx.out / target, compress_level=1)
        return hashlib.sha256(pixels.tobytes()).hexdigest(), describe(pixels)

    jobs = list(zip(rows, targets, strict=True))
    statistics = {name: ClassStatistics() for name in source.classes}
    written = []
    results = track(map_ordered(process, jobs), "Resizing images", total=len(jobs))
    for (row, target), (digest, description) in zip(jobs, results, strict=True):
        written.append(
            ImageRow(path=target, label=row.label, split=row.split, sha256=digest, source=row.path, group=row.group)
        )
        statistics[row.label].add(row.split, ctx.out / target, description)
    write_record(ctx.out / GEOMETRY.file, geometry)
    write_rows(ctx.out / IMAGES.file, ImageRow, written)
    _save_preprocessor(ctx.out / PREPROCESSOR.file, preprocess)
    write_exploratory_plots(ctx.out / DATA_PLOTS.file, statistics)
    logger.info("   %d images of %d classes, %s", len(rows), len(statistics), geometry.title)


def _choose_geometry(ctx: StageContext, root: Path, train: Sequence[ManifestRow]) -> Geometry:
    """How images become squares; measured where there is a choice."""
    seed, weights = ctx.setting("seed"), ctx.outside(MEASURE)

    def read(candidate: Candidate, row: ManifestRow) -> np.ndarray:
        return _read_square(root / row.path, row.sha256, _make_preprocessor(ctx, candidate))

    def measure(candidates: Sequence[Candidate]) -> Answers:
        return measure_candidates(candidates, train, read, weights, ctx.resume, seed)

    sizes = np.array([(row.width, row.height) for row in train])
    geometry = choose_geometry(sizes, ctx.setting("data_preprocessing"), measure)
    for one in geometry.candidates:
        score = f"log loss {one.log_loss:.4f}, {100 * one.accuracy:.1f} % right, relative cost {one.relative_cost:g}"
        logger.info("   %s: %s", one.title, score)
    logger.info("   %s", geometry.reason)
    return geometry


def _make_preprocessor(ctx: StageContext, way: Candidate) -> Preprocessor:
    return Preprocessor(way.image_size, ctx.setting("data_preprocessing.resize"), ctx.setting("image"), way.fit)


def choose_targets(rows: Iterable[ManifestRow], classes: Iterable[str], folder: str) -> list[str]:
    """Where each image of the manifest goes: `folder`/<split>/<class>/<name>.png, valid on every file system.

    A name that another image of the same split and class has, upper and lower case alike, gets a digest of the
    image's path appended.
    """
    taken: set[str] = set()
    class_folders = {name: _reserve(make_safe_name(name), name, taken) for name in classes}
    targets, taken = [], set()
    for row in rows:
        place = f"{folder}/{row.split}/{class_folders[row.label]}"
        targets.append(_reserve(f"{place}/{make_safe_name(Path(row.path).stem)}", row.path, taken) + ".png")
    return targets


def make_safe_name(text: str) -> str:
    """A file name, without suffix, for every file system: letters of any script, digits and `_ . ( ) + -`."""
    name = re.sub(r"[^\w.()+ -]", "_", unicodedata.normalize("NFC", text)).strip(" .")
    if _RESERVED_ON_WINDOWS.match(name):
        name = f"_{name}"
    return name[:50].rstrip(" .") or "_"


def _reserve(name: str, origin: str, taken: set[str]) -> str:
    """`name`, or `name` with a digest of `origin` where it is taken; marks it as taken."""
    while name.casefold() in taken:
        name = f"{name}_{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    taken.add(name.casefold())
    return name


def _read_square(source: Path, sha256: str, preprocess: Preprocessor) -> np.ndarray:
    """What is made of one image, uint8 (side, side, 3)."""
    again = "Run the ingestion again: python main.py run --from 01 --force."
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"An image cannot be read any more since ingestion. {again} Got '{error}'.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(f"{source} changed since ingestion. {again} Got SHA-256 {found} instead of {sha256}.")
    try:
        return preprocess(data)
    except ImageError as error:
        raise DataError(f"{source} is not usable any more. {again} {error}") from error


def _save_preprocessor(target: Path, preprocess: Preprocessor) -> None:
    import joblib

    with atomic_path(target) as partial:
        joblib.dump(preprocess, partial)
