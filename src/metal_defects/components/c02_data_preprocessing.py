"""Stage 02: every image as a square RGB PNG, ready to train on, and plots to get to know the data."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from metal_defects.artifacts import DATA_PLOTS, IMAGES, MANIFEST, PREPROCESSOR, SOURCE
from metal_defects.data.imaging import ImageError, Preprocessor
from metal_defects.data.manifest import ImageRow, ManifestRow, SourceCard
from metal_defects.errors import DataError
from metal_defects.files import atomic_path
from metal_defects.log import logger, track
from metal_defects.pipeline.context import StageContext
from metal_defects.plots.data import ClassStatistics, Description, describe, write_exploratory_plots
from metal_defects.records import write_rows
from metal_defects.system import map_ordered

_RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def run(ctx: StageContext) -> None:
    """Write resized_images_<size>/, images.csv, pre_processor.joblib and plots/.

    Raises:
        DataError: a source image vanished, changed or became unreadable since ingestion.
    """
    source, rows = ctx.read(SOURCE, SourceCard), ctx.read_rows(MANIFEST, ManifestRow)
    image_size = ctx.setting("data_preprocessing.image_size")
    preprocess = Preprocessor(image_size, ctx.setting("data_preprocessing.resize"), ctx.setting("image"))
    targets = choose_targets(rows, source.classes, f"resized_images_{image_size}")
    for folder in sorted({(ctx.out / target).parent for target in targets}):
        folder.mkdir(parents=True, exist_ok=True)

    def process(job: tuple[ManifestRow, str]) -> tuple[str, Description]:
        row, target = job
        return _process_image(Path(source.root) / row.path, row.sha256, ctx.out / target, preprocess)

    jobs = list(zip(rows, targets, strict=True))
    statistics = {name: ClassStatistics() for name in source.classes}
    written = []
    results = track(map_ordered(process, jobs), "Resizing images", total=len(jobs))
    for (row, target), (digest, description) in zip(jobs, results, strict=True):
        written.append(
            ImageRow(path=target, label=row.label, split=row.split, sha256=digest, source=row.path, group=row.group)
        )
        statistics[row.label].add(row.split, ctx.out / target, description)
    write_rows(ctx.out / IMAGES.file, ImageRow, written)
    _save_preprocessor(ctx.out / PREPROCESSOR.file, preprocess)
    write_exploratory_plots(ctx.out / DATA_PLOTS.file, statistics)
    logger.info("   %d images of %d classes, %d px", len(rows), len(statistics), image_size)


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


def _process_image(source: Path, sha256: str, target: Path, preprocess: Preprocessor) -> tuple[str, Description]:
    """Write one image; return the SHA-256 of its pixels and what the plots need of them."""
    again = "Run the ingestion again: python main.py run --from 01 --force."
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"An image cannot be read any more since ingestion. {again} Got '{error}'.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(f"{source} changed since ingestion. {again} Got SHA-256 {found} instead of {sha256}.")
    try:
        pixels = preprocess(data)
    except ImageError as error:
        raise DataError(f"{source} is not usable any more. {again} {error}") from error
    Image.fromarray(pixels).save(target, compress_level=1)
    return hashlib.sha256(pixels.tobytes()).hexdigest(), describe(pixels)


def _save_preprocessor(target: Path, preprocess: Preprocessor) -> None:
    import joblib

    with atomic_path(target) as partial:
        joblib.dump(preprocess, partial)
